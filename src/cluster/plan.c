/* ksweep plan: what a job would run, without running it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/ops.h"
#include "base/file.h"
#include "base/units.h"
#include "cluster/axis_text.h"
#include "cluster/bitmap.h"
#include "cluster/device.h"
#include "cluster/load.h"
#include "cluster/replica.h"
#include "cluster/resume.h"
#include "cluster/row_count.h"
#include "cluster/select.h"
#include "cluster/setup.h"
#include "cluster/target.h"
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

/* What is planned. */
typedef struct plan {
    ks_setup setup;
    ks_selection selection;
    ks_ops *ops;
    bool stand_in;       /* ops is this machine's CPU, and the job's device another one */
    ks_store_info *old;  /* of an output that is there and would go on; NULL: there is none */
    ks_resume resume;    /* what that holds */
    ks_error refusal;    /* why a run would refuse the output; "": it would not */
    uint64_t *left_map;  /* points that are left to render; NULL: all of the selection's map */
    ks_target_want want; /* how many they are */
} plan;

/* The KSampler calls that are planned; NULL: all. */
static const uint64_t *planned(const plan *p)
{
    const ks_selection *s = &p->selection;
    return p->left_map ? p->left_map : s->mine_map ? s->mine_map : s->wanted_map;
}

/* Network rows of what is planned. */
static double count_rows(const plan *p, ks_conditions *cells)
{
    return p->want.todo ? ks_row_count(p->setup.job, planned(p), p->selection.points, cells) : 0;
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

static void add_samples(ks_text *text, const plan *p)
{
    const ks_selection *s = &p->selection;
    const int *shape = p->setup.shape;
    uint64_t batch = (uint64_t)p->setup.job->batch;
    ks_text_add(text, "samples:        %llu latents of %d x %d x %d", (unsigned long long)(s->mine * batch), shape[1], shape[2], shape[3]);
    if (s->mine_map || s->wanted_map)
        ks_text_add(text, ", of %llu in the sweep", (unsigned long long)(s->points * batch));
    ks_text_add(text, "\n");
}

/* What of them an existing output holds, by its rows' own fields. */
static void add_done(ks_text *text, const plan *p)
{
    uint64_t batch = (uint64_t)p->setup.job->batch, done = p->selection.mine - p->want.todo;
    if (!p->old)
        return;
    ks_text_add(text, "already there:  %llu of them, %llu are left to render (with the model of sha256 %.12s...)\n",
                (unsigned long long)(done * batch), (unsigned long long)(p->want.todo * batch), p->old->model_sha256);
    if (strcmp(p->old->backend, p->ops->name) || strcmp(p->old->precision, p->ops->precision))
        ks_text_add(text, "                begun on %s in %s, and this machine is another: go on where that is\n", p->old->backend,
                    p->old->precision);
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

static void add_memory(ks_text *text, const plan *p, int rows)
{
    int size = ks_replica_size(p->setup.job);
    char weights[32], row[32], whole[32], follower[32];
    ks_memory_need need = ks_setup_memory(&p->setup, p->ops);
    ks_size_text(need.weights, weights, sizeof weights);
    ks_size_text(need.row, row, sizeof row);
    ks_size_text(need.fixed + rows * need.row, whole, sizeof whole);
    ks_text_add(text, "memory a rank:  about %s (weights %s, %d rows of about %s)", whole, weights, rows, row);
    ks_size_text(need.follower_weights + rows * need.follower_row, follower, sizeof follower);
    if (size > 1)
        ks_text_add(text, " on the first of each %d, %s on the others", size, follower);
    ks_text_add(text, "\n");
}

/* The whole output's size, when what is left of the selection is rendered. */
static int add_output(ks_text *text, const plan *p, ks_error *err)
{
    char size[32], most[32];
    ks_target_room room;
    bool collects = p->want.todo || ks_store_has_shards(p->setup.job->output);
    if (ks_target_find_room(&p->setup, p->ops, &p->want, &room, err))
        return -1;
    ks_size_text(room.output, size, sizeof size);
    ks_size_text(room.most, most, sizeof most);
    ks_text_add(text, "output:         %s, about %s", p->setup.job->output, size);
    if (collects && room.most > room.output)
        ks_text_add(text, ", %s while it is merged", most);
    ks_text_add(text, "\n");
    if (p->refusal.text[0])
        ks_text_add(text, "                warning: a run would be refused: %s\n", p->refusal.text);
    else if (collects && (!room.renders || !room.merges))
        ks_text_add(text, "disk:           warning: %s\n", room.text);
    return 0;
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
static int open_device(plan *p, ks_error *err)
{
    ks_error absent = KS_ERROR_NONE;
    p->ops = ks_device_open_alone(p->setup.job, 0, &absent);
    p->stand_in = !p->ops;
    if (!p->ops)
        p->ops = ks_ops_cpu(0, err);
    return p->ops ? 0 : -1;
}

/* Whether this machine is one that the run could go on at. A job for any device may be planned on a machine without the one that it
 * was begun on. */
static bool judges_device(const plan *p)
{
    bool same = p->old && !strcmp(p->old->backend, p->ops->name);
    return !p->stand_in && (same || strcmp(p->setup.job->device, "auto"));
}

/* Looks at the output's place as a run does, but for the model's digest: the one that the output tells is believed. */
static int check_output(plan *p, ks_error *err)
{
    const ks_job *job = p->setup.job;
    if (ks_target_open(&p->setup, NULL, &p->old, err))
        return -1;
    if (!p->old)
        return 0;
    if ((judges_device(p) && ks_target_match(&p->setup, p->ops, p->old, err)) || ks_target_check_rows(job, p->old->batch_rows, err) ||
        ks_setup_believe_model(&p->setup, p->old->model_sha256, err) || ks_resume_glance(&p->resume, &p->setup, job->output, err))
        return -1;
    return ks_target_check_foreign(job, p->old->samples, p->resume.foreign, err);
}

/* The plan of a run that would be refused is one of a run into an output of its own. */
static void look_at_output(plan *p)
{
    if (!check_output(p, &p->refusal))
        return;
    ks_resume_close(&p->resume);
    ks_store_info_free(p->old);
    p->resume = (ks_resume){0};
    p->old = NULL;
}

/* What is left to render: of the selection, where something is there. */
static void list_left(plan *p)
{
    const ks_selection *s = &p->selection;
    const uint64_t *mine = s->mine_map ? s->mine_map : s->wanted_map;
    uint64_t done = 0, *map = p->old ? ks_resume_points(&p->resume, &done) : NULL;
    p->want = (ks_target_want){.todo = s->mine, .left = s->mine, .done = done};
    if (!map)
        return;
    p->want.todo = 0;
    p->left_map = ks_calloc((size_t)ks_bitmap_words(s->points), sizeof *p->left_map);
    for (uint64_t i = 0; i < s->points; i++) {
        if (ks_bit(map, i) || (mine && !ks_bit(mine, i)))
            continue;
        ks_bit_set(p->left_map, i);
        p->want.todo++;
    }
    p->want.left = p->want.todo;
    free(map);
}

static void plan_close(plan *p)
{
    ks_resume_close(&p->resume);
    ks_store_info_free(p->old);
    free(p->left_map);
    if (p->ops)
        p->ops->free(p->ops);
    ks_selection_free(&p->selection);
    ks_setup_close(&p->setup);
}

/* All that is to be known, in the order in which a run finds it wrong. */
static int plan_open(plan *p, const ks_run_options *o, ks_error *err)
{
    ks_job *job = ks_job_from_source(&o->job, err);
    if (!job || ks_setup_open(&p->setup, job, err) || ks_select(&p->selection, job, o->filters, o->filter_count, o->shard, err) ||
        ks_setup_check(&p->setup, err) || open_device(p, err))
        return -1;
    look_at_output(p);
    list_left(p);
    return 0;
}

/* Rows of a network call: what the output was begun with, what the job says, or what suits the machine. */
static int choose_rows(const plan *p, int *rows, ks_error *err)
{
    *rows = p->old && p->old->batch_rows > 0 ? p->old->batch_rows : p->setup.job->batch_rows;
    return *rows ? 0 : ks_setup_choose_rows(&p->setup, p->ops, 1, false, rows, err);
}

static int add_all(ks_text *text, const plan *p, ks_error *err)
{
    const ks_job *job = p->setup.job;
    int batch_rows;
    if (choose_rows(p, &batch_rows, err))
        return -1;
    ks_text_add(text, "job:            %s\nmodel:          %s (%s, %s)\naxes, slowest first:\n", job->path, job->model,
                p->setup.config.family, job->prediction);
    for (int axis = 0; axis < KS_AXES; axis++)
        add_axis(text, job, (ks_axis)axis);
    add_samples(text, p);
    add_done(text, p);
    ks_text_add(text, "network rows:   %s%.0f, %d in each call\n", is_adaptive(job) ? "about " : "", count_rows(p, NULL), batch_rows);
    add_layout(text, job);
    add_memory(text, p, batch_rows);
    if (add_output(text, p, err))
        return -1;
    add_time(text, &p->setup, p->ops, count_rows(p, p->setup.conditions));
    return 0;
}

char *ks_plan(const ks_run_options *o, ks_error *err)
{
    plan p = {0};
    ks_text text = {0};
    if (plan_open(&p, o, err) || add_all(&text, &p, err)) {
        free(text.bytes);
        text.bytes = NULL;
    }
    plan_close(&p);
    return text.bytes;
}
