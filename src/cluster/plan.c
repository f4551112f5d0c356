/* ksweep plan: what a job would run, without running it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ops.h"
#include "base/file.h"
#include "base/threads.h"
#include "cluster/load.h"
#include "cluster/progress.h"
#include "cluster/setup.h"
#include "cluster/text.h"
#include "ksweep/ksweep.h"
#include "model/model.h"
#include "sampling/sampler.h"

/* Shortest form that reads back equal, for axes' ends. */
static void number_text(double value, char *out, int size)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, (size_t)size, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            return;
    }
}

static void value_text(const ks_job *job, ks_axis axis, uint64_t k, char *out, int size)
{
    switch (axis) {
    case KS_AXIS_POSITIVE:
        snprintf(out, (size_t)size, "%s", job->positive[k].label);
        break;
    case KS_AXIS_NEGATIVE:
        snprintf(out, (size_t)size, "%s", job->negative[k].label);
        break;
    case KS_AXIS_LATENT:
        snprintf(out, (size_t)size, "%s", job->latent[k].label);
        break;
    case KS_AXIS_DENOISE:
        number_text(job->denoise[k], out, size);
        break;
    case KS_AXIS_SCHEDULER:
        snprintf(out, (size_t)size, "%s", ks_scheduler_name(job->scheduler[k]));
        break;
    case KS_AXIS_SAMPLER:
        snprintf(out, (size_t)size, "%s", ks_sampler_at(job->sampler[k])->name);
        break;
    case KS_AXIS_CFG:
        number_text(job->cfg[k], out, size);
        break;
    case KS_AXIS_STEPS:
        snprintf(out, (size_t)size, "%d", job->steps[k]);
        break;
    case KS_AXIS_SEED:
        snprintf(out, (size_t)size, "%llu", (unsigned long long)ks_job_seed(job, k));
        break;
    default:
        snprintf(out, (size_t)size, "%llu", (unsigned long long)k);
    }
}

/* The first values of an axis, and its last. */
static void add_axis(ks_text *text, const ks_job *job, ks_axis axis)
{
    enum { SHOWN = 4 };
    uint64_t count = ks_job_axis_size(job, axis);
    if (axis == KS_AXIS_BATCH && count == 1)
        return;
    ks_text_add(text, "  %-13s %12llu  ", ks_axis_name(axis), (unsigned long long)count);
    char value[96];
    for (uint64_t k = 0; k < count && k < SHOWN; k++) {
        value_text(job, axis, k, value, sizeof value);
        ks_text_add(text, "%s%s", k ? ", " : "", value);
    }
    if (count > SHOWN) {
        value_text(job, axis, count - 1, value, sizeof value);
        ks_text_add(text, "%s %s", count > SHOWN + 1 ? ", ...," : ",", value);
    }
    ks_text_add(text, "\n");
}

/* Network rows of the whole sweep: over the axes that decide them. *adaptive: some sampler chooses its own steps. */
static double count_rows(const ks_setup *s, bool *adaptive)
{
    const ks_job *job = s->job;
    double steps = 0, evaluations = 0, positives = 0, negatives = 0, guided = 0;
    enum { ADAPTIVE_STEPS_GUESS = 40 };
    *adaptive = false;
    for (int i = 0; i < job->steps_count; i++)
        steps += job->steps[i];
    for (int i = 0; i < job->samplers; i++) {
        int e = ks_sampler_at(job->sampler[i])->evaluations;
        *adaptive |= !e;
        evaluations += e ? e * steps : ADAPTIVE_STEPS_GUESS * job->steps_count;
    }
    for (int i = 0; i < job->positives; i++)
        positives += job->positive[i].count;
    for (int i = 0; i < job->negatives; i++)
        negatives += job->negative[i].count;
    for (int i = 0; i < job->cfgs; i++)
        guided += fabs(job->cfg[i] - 1.0) > 1e-9;
    double sides = positives * job->negatives * job->cfgs + negatives * job->positives * guided;
    return evaluations * sides * job->schedulers * job->denoises * (double)job->seed_count * job->latents * s->shape[0];
}

/* Multiply-adds a second of this machine's network, measured on one convolution for a few milliseconds. */
static double measure_rate(int threads, ks_error *err)
{
    enum { SIDE = 32, CHANNELS = 160, TIMES = 3 };
    ks_ops *ops = ks_ops_cpu(threads, err);
    if (!ops)
        return 0;
    float *values = ks_calloc((size_t)CHANNELS * CHANNELS * 9, sizeof *values);
    ks_view view = {.data = values, .dtype = KS_F32, .rank = 4, .shape = {CHANNELS, CHANNELS, 3, 3}};
    ks_weight *w = ops->weight(ops, 1, &view, NULL, err);
    double best = 0, macs = 9.0 * CHANNELS * CHANNELS * SIDE * SIDE;
    ks_conv how = {.stride = 1, .pad = 1};
    ks_act x = ops->act(ops, 1, SIDE, SIDE, CHANNELS), y = ops->act(ops, 1, SIDE, SIDE, CHANNELS);
    if (w && x.data && y.data) {
        memset(x.data, 0, sizeof(float) * SIDE * SIDE * CHANNELS);
        for (int i = 0; i < TIMES; i++) {
            double start = ks_seconds();
            ops->conv(ops, y, x, w, &how);
            best = fmax(best, macs / (ks_seconds() - start));
        }
    }
    ops->sync(ops, err);
    if (w)
        ops->weight_free(ops, w);
    ops->free(ops);
    free(values);
    return best;
}

static void add_sizes(ks_text *text, const ks_setup *s, int rows)
{
    const ks_job *job = s->job;
    double cells = (double)s->shape[2] * s->shape[3], samples = (double)ks_job_samples(job);
    double latents = cells * s->shape[1] * (job->latents_float16 ? 2 : 4), images = job->images ? cells * 64 * 3 : 0;
    char weights[32], row[32], whole[32], file[32];
    ks_size_text(ks_setup_weight_bytes(s), weights, sizeof weights);
    ks_size_text(ks_setup_row_bytes(s), row, sizeof row);
    ks_size_text(ks_setup_weight_bytes(s) + rows * ks_setup_row_bytes(s), whole, sizeof whole);
    ks_size_text((latents + images) * samples, file, sizeof file);
    ks_text_add(text, "memory a rank:  about %s (weights %s, %d rows of about %s)\n", whole, weights, rows, row);
    ks_text_add(text, "output:         %s, about %s\n", job->output, file);
}

static int text_tokens(const ks_setup *s)
{
    return s->config.text.present ? s->config.text.tokens : 77;
}

/* Convolutions run near the rate that was measured, the rest at about half of it. */
static void add_time(ks_text *text, const ks_setup *s, double rows, int threads)
{
    const double share_of_rate = 0.6;
    ks_error none = KS_ERROR_NONE;
    double rate = measure_rate(threads, &none);
    double macs = ks_unet_macs(&s->config.unet, s->shape[2], s->shape[3], text_tokens(s));
    char duration[32];
    ks_duration_text(rate > 0 ? rows * macs / (share_of_rate * rate) : -1, duration, sizeof duration);
    ks_text_add(text, "expected time:  about %s of network on this machine's %d CPU threads; n machines like it take 1/n\n",
                duration, threads);
}

char *ks_plan(const ks_job_source *source, ks_error *err)
{
    ks_setup s = {0};
    ks_text text = {0};
    int batch_rows = 0, threads = ks_threads_available();
    bool adaptive;
    ks_job *job = ks_job_from_source(source, err);
    ks_ops *ops = NULL;
    if (!job || ks_setup_open(&s, job, err) || ks_setup_check(&s, err) || !(ops = ks_ops_cpu(threads, err)))
        goto cleanup;
    batch_rows = job->batch_rows;
    if (!batch_rows && ks_setup_choose_rows(&s, threads, (double)ops->memory_free(ops), 1, &batch_rows, err))
        goto cleanup;
    ks_text_add(&text, "job:            %s\nmodel:          %s (%s, %s)\naxes, slowest first:\n", job->path, job->model,
                s.config.family, job->prediction);
    for (int axis = 0; axis < KS_AXES; axis++)
        add_axis(&text, job, (ks_axis)axis);
    double rows = count_rows(&s, &adaptive);
    ks_text_add(&text, "samples:        %llu latents of %d x %d x %d\n", (unsigned long long)ks_job_samples(job), s.shape[1],
                s.shape[2], s.shape[3]);
    ks_text_add(&text, "network rows:   %s%.0f, %d in each call\n", adaptive ? "about " : "", rows, batch_rows);
    add_sizes(&text, &s, batch_rows);
    add_time(&text, &s, rows, threads);
cleanup:
    if (ops)
        ops->free(ops);
    ks_setup_close(&s);
    return text.bytes;
}
