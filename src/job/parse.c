#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "job/conditioning.h"
#include "job/fields.h"
#include "job/graph.h"
#include "job/job.h"
#include "job/latent.h"
#include "job/set.h"
#include "job/sweep.h"
#include "job/zip.h"

/* --- keys with readers of their own --- */

static int read_nothing(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    (void)f, (void)into, (void)v, (void)err;
    return 0;
}

static int read_version(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    (void)into;
    int64_t version;
    return ks_json_int(v, 1, 1, &version, NULL) == 0 ? 0 : ks_misfit(v, err, f->missing);
}

static int read_latents(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    return ks_field_axis(f, into, v, err) == 0 ? ks_latents_check(into, v, err) : -1;
}

static int read_control(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    char name[16] = "";
    ks_field choice = *f;
    choice.at = 0;
    if (ks_field_choice(&choice, name, v, err) != 0)
        return -1;
    int control = 0;
    while (strcmp(f->choices[control], name) != 0)
        control++;
    ((ks_job *)into)->control = (ks_control)control;
    return 0;
}

static int read_sweep(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    (void)f;
    return ks_zip_read(into, v, err);
}

static int read_noise_device(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    (void)f;
    ks_job *job = into;
    const char *text = NULL;
    if (!ks_json_is_string(v) || ks_json_string(v, &text, NULL) != 0 ||
        strlen(text) >= sizeof job->noise_device ||
        ks_noise_device_parse(text, &job->noise, NULL) != 0)
        return ks_misfit(v, err, "\"cuda\", \"cuda:N\" for a chip of N multiprocessors, or "
                         "\"cpu\"");
    strcpy(job->noise_device, text);
    return 0;
}

static int read_zsnr(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    ((ks_job *)into)->zsnr_given = true;
    return ks_field_bool(f, into, v, err);
}

static int read_float16(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    char name[8] = "";
    ks_field choice = *f;
    choice.at = 0;
    if (ks_field_choice(&choice, name, v, err) != 0)
        return -1;
    ((ks_job *)into)->latents_float16 = strcmp(name, "float16") == 0;
    return 0;
}

/* --- the tables --- */

#define CHOICES(...) (const char *const[]){__VA_ARGS__, NULL}
#define JOB(member) offsetof(ks_job, member)

static const ks_field parallel_fields[] = {
    {.name = "tensor", .read = ks_field_int, .at = JOB(tensor), .low = 1, .high = KS_PARTS},
    {.name = "rows", .read = ks_field_int, .at = JOB(rows), .low = 1, .high = KS_PARTS},
    {.name = "batch_rows", .read = ks_field_int, .at = JOB(batch_rows), .low = 0, .high = KS_MOST_BATCH_ROWS},
    {.name = NULL}};

static const ks_field output_fields[] = {
    {.name = "file", .read = ks_field_path, .at = JOB(output), .low = 1,
     .missing = "the path of the HDF5 file to write, here or with -o"},
    {.name = "latents", .read = read_float16, .choices = CHOICES("float32", "float16"),
     .fallback = "\"float32\""},
    {.name = "images", .read = ks_field_bool, .at = JOB(images)},
    {.name = "collect", .read = ks_field_choice, .at = JOB(collect),
     .choices = CHOICES("auto", "merge", "virtual"), .fallback = "\"auto\""},
    {.name = NULL}};

/* The ranks of "rows" compute as many rows each. */
static int read_parallel(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    ks_job *job = into;
    if (!ks_json_is_object(v))
        return ks_misfit(v, err, f->wanted);
    if (ks_fields_read(v, KS_PART_PARALLEL, parallel_fields, job, err) != 0)
        return -1;
    if (job->batch_rows % job->rows == 0)
        return 0;
    return ks_json_error(ks_json_get(v, "batch_rows"), err,
                         "%d rows cannot be dealt out evenly to the %d ranks of \"rows\"; give a "
                         "multiple of %d",
                         job->batch_rows, job->rows, job->rows);
}

static int read_output(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    if (!ks_json_is_object(v))
        return ks_misfit(v, err, f->wanted);
    return ks_fields_read(v, KS_PART_OUTPUT, output_fields, into, err);
}

#define AXIS(key, member, counter, reader)                                                         \
    .name = key, .read = ks_field_axis, .at = JOB(member), .count = JOB(counter),                  \
    .size = sizeof *((ks_job *)NULL)->member, .item = reader

#define CONDITIONINGS(key, member, counter)                                                        \
    .name = key, .read = ks_field_conditionings, .at = JOB(member), .count = JOB(counter),         \
    .size = sizeof(ks_conditioning), .item = ks_item_conditioning

static const ks_field job_fields[] = {
    {.name = "$schema", .read = read_nothing},
    {.name = "ksweep", .read = read_version,
     .missing = "\"ksweep\": 1, the version of the format that this program reads"},
    {.name = "model", .read = ks_field_path, .at = JOB(model), .low = 1,
     .wanted = "the path of a safetensors checkpoint",
     .missing = "the path of a safetensors checkpoint"},
    {CONDITIONINGS("positive", positive, positives),
     .missing = "a text, or {\"file\": \"c.safetensors\", \"cond\": \"NAME\"}"},
    {CONDITIONINGS("negative", negative, negatives), .fallback = "\"\""},
    {.name = "latent_image", .read = read_latents, .at = JOB(latent), .count = JOB(latents),
     .size = sizeof(ks_latent_ref), .item = ks_item_latent,
     .missing = "{\"width\": 512, \"height\": 512} in pixels, or {\"file\": \"x.latent\"}"},
    {AXIS("denoise", denoise, denoises, ks_item_double), .range = ks_range_doubles, .low = 0,
     .high = 1, .fallback = "1.0"},
    {AXIS("scheduler", scheduler, schedulers, ks_item_scheduler), .fallback = "\"normal\""},
    {AXIS("sampler_name", sampler, samplers, ks_item_sampler), .fallback = "\"euler\""},
    {AXIS("cfg", cfg, cfgs, ks_item_double), .range = ks_range_doubles, .low = -1000,
     .high = 1000, .fallback = "8.0"},
    {AXIS("steps", steps, steps_count, ks_item_int), .range = ks_range_ints, .low = 1,
     .high = 10000, .fallback = "20"},
    {.name = "control_after_generate", .read = read_control,
     .choices = CHOICES("fixed", "increment", "decrement", "randomize"),
     .fallback = "\"increment\""},
    {.name = "seed", .read = ks_field_seed, .fallback = "0"},
    {.name = "sweep", .read = read_sweep}, /* behind the axes, whose sizes it compares */
    {.name = "add_noise", .read = ks_field_bool, .at = JOB(add_noise), .fallback = "true"},
    {.name = "start_at_step", .read = ks_field_int, .at = JOB(start_at_step), .low = 0,
     .high = KS_LAST_STEP},
    {.name = "end_at_step", .read = ks_field_int, .at = JOB(end_at_step), .low = 0,
     .high = KS_LAST_STEP, .fallback = "10000"},
    {.name = "return_with_leftover_noise", .read = ks_field_bool, .at = JOB(leftover_noise)},
    {.name = "noise_device", .read = read_noise_device, .fallback = "\"cuda\""},
    {.name = "precision", .read = ks_field_choice, .at = JOB(precision),
     .choices = CHOICES("auto", "fp32", "fp16", "bf16"), .fallback = "\"auto\""},
    {.name = "prediction", .read = ks_field_choice, .at = JOB(prediction),
     .choices = CHOICES("auto", "eps", "v"), .fallback = "\"auto\""},
    {.name = "zsnr", .read = read_zsnr, .at = JOB(zsnr)},
    {.name = "parallel", .read = read_parallel, .wanted = "{\"batch_rows\": 16}"},
    {.name = "device", .read = ks_field_choice, .at = JOB(device),
     .choices = CHOICES("auto", "cpu", "cuda"), .fallback = "\"auto\""},
    {.name = "output", .read = read_output, .wanted = "{\"file\": \"out.h5\"}",
     .missing = "{\"file\": \"out.h5\"}, here or with -o"},
    {.name = NULL}};

/* --- loading --- */

/* The job file with the sets applied. */
static ks_json_doc *read_document(const char *path, const char *const *sets, int set_count,
                                  ks_error *err)
{
    ks_json_doc *doc = ks_json_read(path, err);
    for (int i = 0; doc && i < set_count; i++) {
        ks_json_doc *changed = ks_job_apply_set(doc, sets[i], err);
        ks_json_free(doc);
        doc = changed;
    }
    return doc;
}

static int read_job(ks_job *job, ks_json root, ks_error *err)
{
    job->tensor = job->rows = job->batch = 1;
    if (ks_refuse_graph(root, err) != 0 || ks_fields_read(root, KS_PART_JOB, job_fields, job, err) != 0 ||
        ks_sweep_check(job, err) != 0)
        return -1;
    job->text = ks_json_print(root);
    return job->text ? 0 : ks_error_set(err, "%s: no memory for its text", job->path);
}

/* The job of a document, which is freed; NULL stays NULL. */
static ks_job *job_of(ks_json_doc *doc, ks_error *err)
{
    if (!doc)
        return NULL;
    ks_job *job = ks_calloc(1, sizeof *job);
    job->path = ks_strdup(ks_json_name(doc));
    int status = read_job(job, ks_json_root(doc), err);
    ks_json_free(doc);
    if (status == 0)
        return job;
    ks_job_free(job);
    return NULL;
}

ks_job *ks_job_load(const char *path, const char *const *sets, int set_count, ks_error *err)
{
    return job_of(read_document(path, sets, set_count, err), err);
}

ks_job *ks_job_parse(const char *path, const char *text, ks_error *err)
{
    return job_of(ks_json_parse(path, text, strlen(text), err), err);
}

void ks_job_free(ks_job *job)
{
    if (!job)
        return;
    ks_conditionings_free(job->positive, job->positives);
    ks_conditionings_free(job->negative, job->negatives);
    ks_latents_free(job->latent, job->latents);
    free(job->denoise);
    free(job->scheduler);
    free(job->sampler);
    free(job->cfg);
    free(job->steps);
    free(job->seed_list);
    free(job->path);
    free(job->text);
    free(job->model);
    free(job->output);
    free(job);
}
