/* What looks at outputs and models: ksweep sheet, verify, model. */
#include <stdlib.h>
#include <string.h>

#include "backend/ops.h"
#include "base/file.h"
#include "base/log.h"
#include "cluster/load.h"
#include "cluster/device.h"
#include "cluster/record.h"
#include "cluster/renderer.h"
#include "cluster/setup.h"
#include "cluster/status.h"
#include "ksweep/ksweep.h"
#include "model/config.h"
#include "store/overwrite.h"
#include "store/sheet.h"
#include "store/store.h"

/* --- sheet --- */

int ks_sheet(const char *output, const char *x, const char *y, const char *png, int cell, ks_error *err)
{
    ks_output *o = ks_output_open(output, err);
    if (!o)
        return -1;
    int rc = -1;
    const ks_store_info *info = ks_output_info(o);
    ks_job *job = ks_overwrite_check(output, png, err) ? NULL : ks_job_of_output(info, err);
    if (job) {
        ks_sheet_options options = {.x = x, .y = y, .png = png, .cell = cell};
        rc = ks_sheet_draw(o, job, &options, err);
    }
    ks_job_free(job);
    ks_output_close(o);
    return rc;
}

/* --- verify --- */

typedef struct again { /* samples that are rendered again */
    ks_output *output;
    ks_setup *setup;
    uint64_t *row_of_point; /* [count] rows of the output, one a point */
    uint64_t *point;
    uint64_t count, next;
    ks_verify_result *result;
} again;

static int again_next(void *self, uint64_t *point)
{
    again *a = self;
    if (a->next == a->count)
        return 0;
    *point = a->point[a->next++];
    return 1;
}

static int again_done(void *self, const ks_rendered *result, ks_error *err)
{
    again *a = self;
    const int *s = a->setup->shape;
    size_t values = (size_t)s[1] * (size_t)s[2] * (size_t)s[3];
    for (uint64_t i = 0; i < a->count; i++) {
        ks_row row;
        if (a->point[i] != result->point)
            continue;
        if (ks_output_row(a->output, a->row_of_point[i], &row, err))
            return -1;
        a->result->rendered++;
        bool float16 = ks_output_info(a->output)->float16;
        ks_hash128 digest = {{0}};
        if (!result->error)
            digest = ks_latent_digest(result->latent + values * row.batch, values, float16);
        if (!ks_hash_equal(&digest, &row.digest)) {
            a->result->different++;
            ks_log_error("sample %llu (row %llu) rendered again is not equal", (unsigned long long)row.index,
                         (unsigned long long)a->row_of_point[i]);
        }
    }
    return 0;
}

/* Chooses done rows spread evenly over the file; their samples must still have the recorded keys. */
static int choose_rows(again *a, uint64_t wanted, ks_error *err)
{
    uint64_t rows = ks_output_rows(a->output);
    wanted = wanted < rows ? wanted : rows;
    a->row_of_point = ks_calloc((size_t)wanted + 1, sizeof *a->row_of_point);
    a->point = ks_calloc((size_t)wanted + 1, sizeof *a->point);
    for (uint64_t k = 0; k < wanted; k++) {
        uint64_t r = (uint64_t)((double)k * (double)rows / (double)wanted);
        ks_row row;
        if (ks_output_row(a->output, r, &row, err))
            return -1;
        if (row.status != KS_DONE)
            continue;
        if (row.index >= ks_job_samples(a->setup->job) || row.batch != row.index % (uint64_t)a->setup->shape[0])
            return ks_error_set(err, "row %llu is of a sample %llu that its job has not", (unsigned long long)r,
                                (unsigned long long)row.index);
        ks_sample sample;
        ks_job_sample(a->setup->job, row.index, &sample);
        ks_hash128 key = ks_job_key(a->setup->job, &a->setup->digests, &sample);
        if (!ks_hash_equal(&key, &row.key))
            return ks_error_set(err, "row %llu has another key than its sample now: the model, a conditioning or a latent that "
                                "the job names has changed", (unsigned long long)r);
        a->row_of_point[a->count] = r;
        a->point[a->count++] = row.index / (uint64_t)a->setup->shape[0];
    }
    return 0;
}

static int render_again(again *a, uint64_t samples, int threads, ks_error *err)
{
    const ks_store_info *info = ks_output_info(a->output);
    ks_job *job = ks_job_parse(info->job_path, info->job, err);
    ks_renderer *renderer = NULL;
    ks_ops *ops = NULL;
    int rc = -1;
    if (!job || ks_setup_open(a->setup, job, err) || ks_setup_digest(a->setup, err) ||
        choose_rows(a, samples, err))
        goto cleanup;
    ops = ks_device_open_alone(job, threads, err);
    renderer = ops ? ks_renderer_new(a->setup, ops, NULL, false, err) : NULL;
    if (!renderer || ks_renderer_plan(renderer, info->batch_rows, err))
        goto cleanup;
    ks_render_calls calls = {.self = a, .next = again_next, .done = again_done};
    rc = ks_renderer_run(renderer, &calls, err);
cleanup:
    ks_renderer_free(renderer);
    ks_setup_close(a->setup);
    if (ops)
        ops->free(ops);
    return rc;
}

/* One rank alone does not give the bits of several that had the model together. */
static int check_alone(const ks_store_info *info, ks_error *err)
{
    ks_job *job = ks_job_parse(info->job_path, info->job, err);
    int rc = job ? 0 : -1;
    if (job && job->tensor * job->rows > 1)
        rc = ks_error_set(err, "it was rendered with one model on %d ranks (parallel: tensor %d, rows %d), whose bits a rank alone does "
                          "not give: leave --sample out, or render a row again by `ksweep show` and mpirun", job->tensor * job->rows,
                          job->tensor, job->rows);
    ks_job_free(job);
    return rc;
}

/* What status would say of the samples. */
static int count_samples(ks_output *output, ks_counts *counts, ks_error *err)
{
    ks_tally t;
    if (ks_output_tally(output, KS_TALLY_BYTES, &t, err))
        return -1;
    ks_counts_of(&t, counts);
    ks_tally_free(&t);
    return 0;
}

int ks_verify(const char *output, uint64_t samples, int threads, ks_verify_result *result, ks_error *err)
{
    *result = (ks_verify_result){0};
    ks_setup setup = {0};
    again a = {.setup = &setup, .result = result};
    a.output = ks_output_open(output, err);
    if (!a.output)
        return -1;
    int rc = samples ? check_alone(ks_output_info(a.output), err) : 0;
    if (!rc)
        rc = ks_output_verify(a.output, &result->rows, &result->bad, err) || count_samples(a.output, &result->samples, err) ? -1 : 0;
    if (!rc && samples)
        rc = render_again(&a, samples, threads, err);
    free(a.row_of_point);
    free(a.point);
    ks_output_close(a.output);
    return rc ? ks_error_wrap(err, "%s", output) : 0;
}

/* --- model --- */

char *ks_model_text(const char *path, ks_error *err)
{
    ks_safetensors *st = ks_safetensors_open(path, err);
    ks_model_config config;
    char *text = NULL;
    if (st && !ks_model_detect(st, &config, err))
        text = ks_model_describe(&config);
    ks_safetensors_close(st);
    return text;
}
