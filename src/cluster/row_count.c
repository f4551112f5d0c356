#include "cluster/row_count.h"

#include <math.h>
#include <stdbool.h>

#include "cluster/bitmap.h"
#include "sampling/sampler.h"

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

/* Rows of all KSampler calls in the map, whose latents are a batch each. */
static double sum_points(const ks_job *job, const uint64_t *map, uint64_t points, part p)
{
    double rows = 0;
    for (uint64_t point = 0; point < points; point++) {
        uint64_t at[KS_AXES];
        double product = job->batch;
        if (!ks_bit(map, point))
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

double ks_row_count(const ks_job *job, const uint64_t *map, uint64_t points, ks_conditions *cells)
{
    double rows = 0;
    for (int i = 0; i < 8; i++) {
        part p = {.negative = i & 1, .adaptive = i & 2, .opposite = i & 4, .cells = cells};
        rows += map ? sum_points(job, map, points, p) : multiply_axes(job, p);
    }
    return rows;
}
