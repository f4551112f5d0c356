/* ksweep plan: what a job would run, without running it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ops.h"
#include "base/file.h"
#include "base/units.h"
#include "cluster/axis_text.h"
#include "cluster/bitmap.h"
#include "cluster/device.h"
#include "cluster/load.h"
#include "cluster/progress.h"
#include "cluster/replica.h"
#include "cluster/select.h"
#include "cluster/setup.h"
#include "cluster/text.h"
#include "ksweep/ksweep.h"
#include "model/model.h"
#include "sampling/sampler.h"

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
        ks_axis_value_text(job, axis, k, value, sizeof value);
        ks_text_add(text, "%s%s", k ? ", " : "", value);
    }
    if (count > SHOWN) {
        ks_axis_value_text(job, axis, count - 1, value, sizeof value);
        ks_text_add(text, "%s %s", count > SHOWN + 1 ? ", ...," : ",", value);
    }
    if (job->behind[axis])
        ks_text_add(text, "  (walks with %s)", ks_axis_name(ks_job_leader(job, axis)));
    ks_text_add(text, "\n");
}

/* What decides network rows: those of the positive or the negative side, by samplers with as many evaluations as steps tell
 * or by adaptive ones. */
typedef struct part {
    bool negative, adaptive;
    bool opposite;        /* rows that a side has for the other side's areas, or its own */
    ks_conditions *cells; /* rows count by their part of the picture; NULL: each is one */
} part;

static double items(const ks_conditioning *value, part p)
{
    if (p.cells)
        return ks_conditions_cells(p.cells, value, p.opposite);
    return p.opposite ? ks_conditions_areas(value) : value->count;
}

/* Steps that are left of a schedule of `steps`. */
static int steps_run(const ks_job *job, int steps)
{
    int end = job->end_at_step < steps ? job->end_at_step : steps;
    return end > job->start_at_step ? end - job->start_at_step : 0;
}

enum { ADAPTIVE_STEPS_GUESS = 40 };

static bool weighs(ks_axis axis)
{
    return axis == KS_AXIS_POSITIVE || axis == KS_AXIS_NEGATIVE || axis == KS_AXIS_SAMPLER || axis == KS_AXIS_CFG ||
           axis == KS_AXIS_STEPS;
}

/* The factor that value k of an axis gives to a sample's rows. */
static double weight(const ks_job *job, ks_axis axis, uint64_t k, part p)
{
    int evaluations;
    switch (axis) {
    case KS_AXIS_POSITIVE:
        return p.negative == p.opposite ? items(&job->positive[k], p) : 1;
    case KS_AXIS_NEGATIVE:
        return p.negative != p.opposite ? items(&job->negative[k], p) : 1;
    case KS_AXIS_CFG:
        return p.negative ? fabs(job->cfg[k] - 1.0) > 1e-9 : 1;
    case KS_AXIS_SAMPLER:
        evaluations = ks_sampler_at(job->sampler[k])->evaluations;
        return p.adaptive ? (evaluations ? 0 : ADAPTIVE_STEPS_GUESS) : evaluations;
    case KS_AXIS_STEPS:
        return p.adaptive ? steps_run(job, job->steps[k]) > 0 : steps_run(job, job->steps[k]);
    default:
        return 1;
    }
}

/* Sum over the values of an axis and of those that walk with it. */
static double sum_group(const ks_job *job, ks_axis leader, part p)
{
    uint64_t size = ks_job_axis_size(job, leader);
    double sum = 0;
    bool any = false;
    for (int a = 0; a < KS_AXES; a++)
        any |= ks_job_leader(job, (ks_axis)a) == leader && weighs((ks_axis)a);
    for (uint64_t k = 0; k < size && any; k++) {
        double product = 1;
        for (int a = 0; a < KS_AXES; a++) {
            if (ks_job_leader(job, (ks_axis)a) == leader)
                product *= weight(job, (ks_axis)a, k, p);
        }
        sum += product;
    }
    return any ? sum : (double)size;
}

/* The KSampler calls that are planned; NULL: all. */
static const uint64_t *planned(const ks_selection *selection)
{
    return selection->mine_map ? selection->mine_map : selection->wanted_map;
}

/* Rows of all KSampler calls in the map, whose latents are a batch each. */
static double sum_points(const ks_job *job, const ks_selection *selection, part p)
{
    double rows = 0;
    for (uint64_t point = 0; point < selection->points; point++) {
        uint64_t at[KS_AXES];
        double product = job->batch;
        if (!ks_bit(planned(selection), point))
            continue;
        ks_job_coordinates(job, point * (uint64_t)job->batch, at);
        for (int a = 0; a < KS_AXES; a++)
            product *= weight(job, (ks_axis)a, at[a], p);
        rows += product;
    }
    return rows;
}

/* Rows of the whole sweep: a product over the axes. */
static double multiply_axes(const ks_job *job, part p)
{
    double product = 1;
    for (int a = 0; a < KS_AXES; a++) {
        if (!job->behind[a])
            product *= sum_group(job, (ks_axis)a, p);
    }
    return product;
}

/* Network rows of what is planned. cells: counted by their part of the picture. */
static double count_rows(const ks_setup *s, const ks_selection *selection, bool cells)
{
    double rows = 0;
    for (int i = 0; i < 8; i++) {
        part p = {.negative = i & 1, .adaptive = i & 2, .opposite = i & 4, .cells = cells ? s->conditions : NULL};
        rows += planned(selection) ? sum_points(s->job, selection, p) : multiply_axes(s->job, p);
    }
    return rows;
}

/* Some sampler chooses its own steps. */
static bool is_adaptive(const ks_job *job)
{
    bool adaptive = false;
    for (int i = 0; i < job->samplers; i++)
        adaptive |= !ks_sampler_at(job->sampler[i])->evaluations;
    return adaptive;
}

/* Multiply-adds a second of the device's network, measured on one convolution for a few milliseconds; 0: not known. */
static double measure_rate(ks_ops *ops)
{
    enum { SIDE = 32, TIMES = 3 };
    bool gpu = strcmp(ops->name, "cpu") != 0;
    int rows = gpu ? 16 : 1, channels = gpu ? 640 : 160;
    float *values = ks_calloc((size_t)channels * (size_t)channels * 9, sizeof *values);
    ks_view view = {.data = values, .dtype = KS_F32, .rank = 4, .shape = {channels, channels, 3, 3}};
    ks_error err = KS_ERROR_NONE;
    ks_weight *w = ops->weight(ops, KS_USE_CONV, 1, &view, NULL, &err);
    float *zeros = ops->alloc(ops, sizeof(float) * (size_t)rows * SIDE * SIDE * (size_t)channels, &err);
    double best = 0, macs = 9.0 * rows * channels * channels * SIDE * SIDE;
    ks_conv how = {.stride = 1, .pad = 1};
    ks_act x = ops->act(ops, rows, SIDE, SIDE, channels), y = ops->act(ops, rows, SIDE, SIDE, channels);
    if (w && zeros)
        ops->from_floats(ops, x, zeros);
    for (int i = 0; w && zeros && i < TIMES; i++) {
        double start = ks_seconds();
        ops->conv(ops, y, x, w, &how);
        best = ops->sync(ops, &err) ? 0 : fmax(best, macs / (ks_seconds() - start));
    }
    if (zeros)
        ops->release(ops, zeros);
    if (w)
        ops->weight_free(ops, w);
    free(values);
    return best;
}

static void add_samples(ks_text *text, const ks_setup *s, const ks_selection *selection)
{
    uint64_t batch = (uint64_t)s->job->batch;
    ks_text_add(text, "samples:        %llu latents of %d x %d x %d", (unsigned long long)(selection->mine * batch), s->shape[1],
                s->shape[2], s->shape[3]);
    if (planned(selection))
        ks_text_add(text, ", of %llu in the sweep", (unsigned long long)(selection->points * batch));
    ks_text_add(text, "\n");
}

/* How many ranks have a model, and what each of them has of it. */
static void add_layout(ks_text *text, const ks_job *job)
{
    int size = ks_replica_size(job);
    if (size == 1)
        return;
    ks_text_add(text, "layout:         one model on %d ranks:", size);
    if (job->tensor > 1)
        ks_text_add(text, " each layer on %d", job->tensor);
    if (job->rows > 1)
        ks_text_add(text, "%s the rows of each call on %d", job->tensor > 1 ? "," : "", job->rows);
    ks_text_add(text, "; start %d ranks, or a multiple\n", size);
}

static void add_sizes(ks_text *text, const ks_setup *s, const ks_ops *ops, double samples, int rows)
{
    const ks_job *job = s->job;
    double cells = (double)s->shape[2] * s->shape[3];
    double latents = cells * s->shape[1] * (job->latents_float16 ? 2 : 4), images = job->images ? cells * 64 * 3 : 0;
    char weights[32], row[32], whole[32], file[32], follower[32];
    ks_memory_need need = ks_setup_memory(s, ops);
    ks_size_text(need.weights, weights, sizeof weights);
    ks_size_text(need.row, row, sizeof row);
    ks_size_text(need.fixed + rows * need.row, whole, sizeof whole);
    ks_size_text((latents + images) * samples, file, sizeof file);
    ks_text_add(text, "memory a rank:  about %s (weights %s, %d rows of about %s)", whole, weights, rows, row);
    ks_size_text(need.follower_weights + rows * need.follower_row, follower, sizeof follower);
    if (ks_replica_size(job) > 1)
        ks_text_add(text, " on the first of each %d, %s on the others", ks_replica_size(job), follower);
    ks_text_add(text, "\n");
    ks_text_add(text, "output:         %s, about %s\n", job->output, file);
}

static int text_tokens(const ks_setup *s)
{
    return s->config.text.present ? s->config.text.tokens : 77;
}

/* Convolutions run near the rate that was measured, the rest at about half of it. */
static void add_time(ks_text *text, const ks_setup *s, ks_ops *ops, double rows)
{
    const double share_of_rate = 0.6;
    double rate = measure_rate(ops);
    double macs = ks_unet_macs(&s->config.unet, s->shape[2], s->shape[3], text_tokens(s));
    char duration[32];
    ks_duration_text(rate > 0 ? rows * macs / (share_of_rate * rate) : -1, duration, sizeof duration);
    ks_text_add(text, "expected time:  about %s of network on this machine (%s, %s); n like it take 1/n\n", duration, ops->device,
                ops->precision);
}

/* The job's device, or this machine's CPU where it has no such device: plans are made on login nodes too. */
static ks_ops *plan_device(const ks_job *job, ks_error *err)
{
    ks_error absent = KS_ERROR_NONE;
    ks_ops *ops = ks_device_open_alone(job, 0, &absent);
    return ops ? ops : ks_ops_cpu(0, err);
}

char *ks_plan(const ks_run_options *o, ks_error *err)
{
    ks_setup s = {0};
    ks_selection selection = {0};
    ks_text text = {0};
    int batch_rows = 0;
    ks_job *job = ks_job_from_source(&o->job, err);
    ks_ops *ops = NULL;
    if (!job || ks_setup_open(&s, job, err) || ks_select(&selection, job, o->filters, o->filter_count, o->shard, err) ||
        ks_setup_check(&s, err) || !(ops = plan_device(job, err)))
        goto cleanup;
    batch_rows = job->batch_rows;
    if (!batch_rows && ks_setup_choose_rows(&s, ops, 1, false, &batch_rows, err))
        goto cleanup;
    ks_text_add(&text, "job:            %s\nmodel:          %s (%s, %s)\naxes, slowest first:\n", job->path, job->model,
                s.config.family, job->prediction);
    for (int axis = 0; axis < KS_AXES; axis++)
        add_axis(&text, job, (ks_axis)axis);
    add_samples(&text, &s, &selection);
    ks_text_add(&text, "network rows:   %s%.0f, %d in each call\n", is_adaptive(job) ? "about " : "",
                count_rows(&s, &selection, false), batch_rows);
    add_layout(&text, job);
    add_sizes(&text, &s, ops, (double)selection.mine * job->batch, batch_rows);
    add_time(&text, &s, ops, count_rows(&s, &selection, true));
cleanup:
    if (ops)
        ops->free(ops);
    ks_selection_free(&selection);
    ks_setup_close(&s);
    return text.bytes;
}
