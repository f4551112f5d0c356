/* The golden UNets in parts, each part in a process of its own, on whatever devices. */
#ifndef TESTS_SUPPORT_UNET_PARTS_H
#define TESTS_SUPPORT_UNET_PARTS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "support/fork_group.h"
#include "support/golden.h"
#include "support/open_model.h"

/* Each case runs as it is, again, and with its rows in the opposite order. */
enum { PARTS_ROWS = 8, PARTS_CASES = 64, PARTS_MOST = 4, PARTS_RUNS = 3, PARTS_BACKWARDS = 2, PARTS_LIMIT = 300 };

typedef struct unet_case {
    char group[256];
    golden_array x, eps, timesteps, context, y;
} unet_case;

/* A model, its cases, and what the parts find: shared with their processes. */
typedef struct unet_parts {
    char path[512];
    const char *precision;
    ks_ops *(*open)(int rank, const char *precision, ks_error *err); /* a part's device */
    unet_case cases[PARTS_CASES];
    int count;
    int64_t values;   /* of all cases' outputs */
    float *out;       /* [PARTS_MOST, PARTS_RUNS, values], shared */
    double *elements; /* [PARTS_MOST] parameters that a part was given, shared */
} unet_parts;

static inline float *parts_outputs(const unet_parts *t, int part, int run)
{
    return t->out + (int64_t)(part * PARTS_RUNS + run) * t->values;
}

/* --- cases, read by the parent --- */

static inline golden_array parts_array(int64_t file, const char *group, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", group, name);
    return golden_exists(file, path) ? golden_read(file, path) : (golden_array){0};
}

static int64_t parts_file;

static inline void parts_add_case(void *self, const char *group)
{
    unet_parts *t = self;
    assert_true(t->count < PARTS_CASES);
    unet_case *c = &t->cases[t->count++];
    snprintf(c->group, sizeof c->group, "%s", group);
    c->x = parts_array(parts_file, group, "x");
    c->eps = parts_array(parts_file, group, "eps");
    c->timesteps = parts_array(parts_file, group, "timesteps");
    c->context = parts_array(parts_file, group, "context");
    c->y = parts_array(parts_file, group, "y");
    assert_in_range(c->x.shape[0], 1, PARTS_ROWS);
    t->values += c->eps.count;
}

/* name: of a model and its cases. unet_parts_free. */
static inline unet_parts unet_parts_new(const char *name, const char *precision,
                                        ks_ops *(*open)(int rank, const char *precision, ks_error *err))
{
    char forward[128];
    unet_parts t = {.precision = precision, .open = open};
    snprintf(t.path, sizeof t.path, TEST_DATA "/%s.safetensors", name);
    snprintf(forward, sizeof forward, "/%s/forward", name);
    parts_file = golden_open("unet.h5");
    golden_walk(parts_file, forward, "eps", parts_add_case, &t);
    golden_close(parts_file);
    assert_true(t.count > 0);
    t.out = fork_group_memory((size_t)(PARTS_MOST * PARTS_RUNS * t.values) * sizeof *t.out);
    t.elements = fork_group_memory(PARTS_MOST * sizeof *t.elements);
    return t;
}

static inline void unet_parts_free(unet_parts *t)
{
    for (int i = 0; i < t->count; i++) {
        unet_case *c = &t->cases[i];
        golden_array *const arrays[] = {&c->x, &c->eps, &c->timesteps, &c->context, &c->y};
        for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++)
            golden_free(arrays[k]);
    }
    fork_group_free(t->out, (size_t)(PARTS_MOST * PARTS_RUNS * t->values) * sizeof *t->out);
    fork_group_free(t->elements, PARTS_MOST * sizeof *t->elements);
}

/* --- a part, in its process: no assertions, it says what is wrong and ends --- */

static _Noreturn inline void parts_give_up(const char *what, const ks_error *err)
{
    fprintf(stderr, "%s: %s\n", what, err->text);
    _exit(1);
}

static ks_ops parts_given;
static double parts_elements;

static inline ks_weight *parts_weight(ks_ops *ops, ks_weight_use use, int parts, const ks_view *w, const ks_view *bias,
                                      ks_error *err)
{
    for (int i = 0; i < parts; i++)
        parts_elements += (double)ks_view_elements(&w[i]) + (bias ? (double)ks_view_elements(&bias[i]) : 0);
    return parts_given.weight(ops, use, parts, w, bias, err);
}

static inline ks_weight *parts_norm(ks_ops *ops, const ks_view *gamma, const ks_view *beta, ks_error *err)
{
    parts_elements += (double)(ks_view_elements(gamma) + ks_view_elements(beta));
    return parts_given.norm_weight(ops, gamma, beta, err);
}

/* The group's part of the model, or with NULL the whole; parts_elements: of its parameters. */
static inline open_model parts_open(const unet_parts *t, ks_group *g)
{
    ks_error err = KS_ERROR_NONE;
    ks_model_config config;
    open_model o = {.ops = t->open(g ? g->rank : 0, t->precision, &err)};
    ks_safetensors *st = ks_safetensors_open(t->path, &err);
    if (!o.ops || !st || ks_model_detect(st, &config, &err) != 0 || (g && o.ops->join(o.ops, g, g, &err) != 0))
        parts_give_up(t->path, &err);
    parts_given = *o.ops;
    o.ops->weight = parts_weight;
    o.ops->norm_weight = parts_norm;
    parts_elements = 0;
    const ks_split split = g ? (ks_split){g->rank, g->size} : ks_unsplit;
    o.model = ks_model_load(st, &config, o.ops, g ? &split : NULL, 0, NULL, &err);
    if (!o.model)
        parts_give_up(t->path, &err);
    ks_safetensors_close(st);
    return o;
}

/* A case's output, its rows at their places or in the opposite order. */
static inline void parts_run_case(ks_model *m, const unet_case *c, bool backwards, float *out)
{
    ks_error err = KS_ERROR_NONE;
    const int n = (int)c->x.shape[0];
    const int64_t in = c->x.count / n, made = c->eps.count / n, context = c->context.count / n;
    float *x = malloc((size_t)c->x.count * sizeof *x), *y = malloc((size_t)c->eps.count * sizeof *y);
    ks_cond *cond[PARTS_ROWS] = {0};
    int timesteps[PARTS_ROWS];
    for (int i = 0; x && y && i < n; i++) {
        const int from = backwards ? n - 1 - i : i;
        memcpy(x + i * in, c->x.value + from * in, (size_t)in * sizeof *x);
        timesteps[i] = (int)c->timesteps.value[from];
        cond[i] = ks_cond_new(m, c->context.value + from * context, (int)c->context.shape[1],
                              c->y.value ? c->y.value + from * c->y.shape[1] : NULL, &err);
        if (!cond[i])
            parts_give_up(c->group, &err);
    }
    if (!x || !y || ks_model_forward(m, x, timesteps, cond, n, (int)c->x.shape[2], (int)c->x.shape[3], y, &err) != 0)
        parts_give_up(c->group, &err);
    for (int i = 0; i < n; i++) {
        memcpy(out + (backwards ? n - 1 - i : i) * made, y + i * made, (size_t)made * sizeof *y);
        ks_cond_free(cond[i]);
    }
    free(x);
    free(y);
}

static inline void parts_run(const unet_parts *t, ks_model *m, int part)
{
    int64_t at = 0;
    for (int i = 0; i < t->count; at += t->cases[i++].eps.count)
        for (int run = 0; run < PARTS_RUNS; run++)
            parts_run_case(m, &t->cases[i], run == PARTS_BACKWARDS, parts_outputs(t, part, run) + at);
}

static inline int parts_member(ks_group *g, void *arg)
{
    const unet_parts *t = arg;
    open_model o = parts_open(t, g);
    t->elements[g->rank] = parts_elements;
    parts_run(t, o.model, g->rank);
    close_model(&o);
    return 0;
}

/* The whole in one process; what it finds is part 0's. */
static inline int parts_whole_member(ks_group *g, void *arg)
{
    (void)g;
    const unet_parts *t = arg;
    open_model o = parts_open(t, NULL);
    t->elements[0] = parts_elements;
    parts_run(t, o.model, 0);
    close_model(&o);
    return 0;
}

/* Runs the network in so many parts, or with 1 the whole, and holds what must be equal against each other: all parts, all
 * runs. */
static inline void unet_parts_run(unet_parts *t, int parts, double patience)
{
    const size_t bytes = (size_t)t->values * sizeof(float);
    fork_results r = fork_group_run(parts, patience, PARTS_LIMIT, parts > 1 ? parts_member : parts_whole_member, t);
    for (int i = 0; i < parts; i++)
        if (r.status[i] != 0)
            fail_msg("%s: part %d of %d ended with %d", t->path, i, parts, r.status[i]);
    for (int part = 0; part < parts; part++)
        for (int run = 0; run < PARTS_RUNS; run++)
            if (memcmp(parts_outputs(t, part, run), parts_outputs(t, 0, 0), bytes) != 0)
                fail_msg("%s: run %d of part %d of %d has other bits than the first of part 0", t->path, run, part, parts);
}

/* The largest relative L2 distance of a case's outputs from the reference, and from other outputs (NULL: none). */
static inline double unet_parts_error(const unet_parts *t, const float *other)
{
    const float *out = parts_outputs(t, 0, 0);
    double most = 0;
    for (int i = 0; i < t->count; i++) {
        const golden_array *eps = &t->cases[i].eps;
        double error = relative_l2(out, other ? other : eps->value, eps->count);
        most = error > most || isnan(error) ? error : most;
        out += eps->count;
        if (other)
            other += eps->count;
    }
    return most;
}

/* A copy of the outputs; free() it. */
static inline float *unet_parts_copy(const unet_parts *t)
{
    float *copy = malloc((size_t)t->values * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, parts_outputs(t, 0, 0), (size_t)t->values * sizeof *copy);
    return copy;
}

#endif
