/* Group norm and layer norm. Sums are made in double, in one order. */
#include <math.h>
#include <string.h>

#include "backend/cpu/cpu.h"

/* Shared scratch: for every row and pixel tile the sums and the sums of squares of its groups
 * (double), then for every row each channel's scale and shift. */
typedef struct norm_job {
    ks_cpu *cpu;
    ks_act y, x;
    const ks_weight *w;
    int groups;
    float eps;
    bool silu;
    ks_cpu_tiles tiles;
    double *sums;  /* [row][tile][2][groups] */
    float *affine; /* [row][2][c] */
} norm_job;

/* A tile's sums over each group. */
static void measure(const norm_job *j, int index, int worker)
{
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    const int c = j->x.c, width = c / j->groups;
    double *channel = (double *)(void *)ks_cpu_worker_scratch(j->cpu, worker);
    memset(channel, 0, 2 * (size_t)c * sizeof *channel);
    j->cpu->vector->moments(channel, channel + c, ks_cpu_at(j->x, t.row, t.pixel), j->x.stride,
                            t.pixels, c);
    double *sum = j->sums + (int64_t)index * 2 * j->groups;
    for (int g = 0; g < 2 * j->groups; g++, channel += width) {
        sum[g] = 0.0;
        for (int k = 0; k < width; k++)
            sum[g] += channel[k];
    }
}

/* A row's scale and shift of every channel, from the sums of its tiles. */
static void settle(const norm_job *j, int row)
{
    const int c = j->x.c, width = c / j->groups;
    const double count = (double)width * (double)ks_cpu_pixels(j->x);
    float *scale = j->affine + (int64_t)row * 2 * c, *shift = scale + c;
    for (int g = 0; g < j->groups; g++) {
        double sum = 0.0, square = 0.0;
        for (int i = 0; i < j->tiles.pixel_tiles; i++) {
            const double *tile =
                j->sums + ((int64_t)row * j->tiles.pixel_tiles + i) * 2 * j->groups;
            sum += tile[g];
            square += tile[j->groups + g];
        }
        double mean = sum / count, variance = square / count - mean * mean;
        double factor = 1.0 / sqrt((variance > 0.0 ? variance : 0.0) + (double)j->eps);
        for (int k = g * width; k < (g + 1) * width; k++) {
            scale[k] = (float)(factor * (double)j->w->data[k]);
            shift[k] = (float)((double)j->w->bias[k] - mean * factor * (double)j->w->data[k]);
        }
    }
}

static void apply(const norm_job *j, int index)
{
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    const float *scale = j->affine + (int64_t)t.row * 2 * j->x.c;
    const float *x = ks_cpu_at(j->x, t.row, t.pixel);
    float *y = ks_cpu_at(j->y, t.row, t.pixel);
    for (int p = 0; p < t.pixels; p++, x += j->x.stride, y += j->y.stride)
        j->cpu->vector->affine(y, x, scale, scale + j->x.c, j->x.c, j->silu);
}

static void measure_task(void *arg, int index, int worker)
{
    measure(arg, index, worker);
}

static void settle_task(void *arg, int index, int worker)
{
    (void)worker;
    settle(arg, index);
}

static void apply_task(void *arg, int index, int worker)
{
    (void)worker;
    apply(arg, index);
}

/* A row of one tile: everything while it is in the cache. */
static void row_task(void *arg, int index, int worker)
{
    measure(arg, index, worker);
    settle(arg, index);
    apply(arg, index);
}

void ks_cpu_group_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, int groups, float eps,
                       bool silu)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    bool fits =
        ks_cpu_same_shape(x, y) && groups > 0 && x.c % groups == 0 && w->out == x.c && w->bias;
    if (!ks_cpu_runs(cpu, fits, "group norm", y, x))
        return;
    norm_job j = {cpu, y, x, w, groups, eps, silu, ks_cpu_pixel_tiles(x), NULL, NULL};
    int tasks = ks_cpu_tasks(&j.tiles, x.n);
    int64_t sums = (int64_t)tasks * 2 * groups;
    float *scratch = ks_cpu_shared_scratch(cpu, 2 * sums + (int64_t)x.n * 2 * x.c);
    if (!scratch || ks_cpu_need_scratch(cpu, 4 * (int64_t)x.c) < 0)
        return;
    j.sums = (double *)(void *)scratch;
    j.affine = scratch + 2 * sums;
    if (j.tiles.pixel_tiles == 1) {
        ks_threads_run(cpu->pool, x.n, row_task, &j);
        return;
    }
    ks_threads_run(cpu->pool, tasks, measure_task, &j);
    ks_threads_run(cpu->pool, x.n, settle_task, &j);
    ks_threads_run(cpu->pool, tasks, apply_task, &j);
}

static void layer_norm_task(void *arg, int index, int worker)
{
    (void)worker;
    const norm_job *j = arg;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    const float *x = ks_cpu_at(j->x, t.row, t.pixel);
    float *y = ks_cpu_at(j->y, t.row, t.pixel);
    for (int p = 0; p < t.pixels; p++, x += j->x.stride, y += j->y.stride)
        j->cpu->vector->layer_norm(y, x, j->w->data, j->w->bias, j->x.c, j->eps);
}

void ks_cpu_layer_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, float eps)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    bool fits = ks_cpu_same_shape(x, y) && w->out == x.c && w->bias;
    if (!ks_cpu_runs(cpu, fits, "layer norm", y, x))
        return;
    norm_job j = {.cpu = cpu, .y = y, .x = x, .w = w, .eps = eps, .tiles = ks_cpu_pixel_tiles(x)};
    ks_threads_run(cpu->pool, ks_cpu_tasks(&j.tiles, x.n), layer_norm_task, &j);
}
