/* Linear layers, alone and as GEGLU. */
#include "backend/cpu/cpu.h"

typedef struct linear_job {
    ks_cpu *cpu;
    ks_act y, x, residual;
    const ks_weight *w;
    ks_activation activation;
    ks_cpu_tiles tiles;
} linear_job;

static const float *bias_at(const ks_weight *w, int column)
{
    return w->bias ? w->bias + column : NULL;
}

/* Without an activation the residual starts the sum; with one it comes last, from a sum held in
 * scratch. */
static void linear_task(void *arg, int index, int worker)
{
    const linear_job *j = arg;
    const ks_vector *v = j->cpu->vector;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    float *y = ks_cpu_at(j->y, t.row, t.pixel) + t.column, *sum = y;
    const float *x = ks_cpu_at(j->x, t.row, t.pixel), *residual = NULL;
    int64_t ld = j->y.stride;
    if (j->residual.data)
        residual = ks_cpu_at(j->residual, t.row, t.pixel) + t.column;
    bool apart = residual && j->activation != KS_ACT_NONE;
    if (apart) {
        sum = ks_cpu_worker_scratch(j->cpu, worker);
        ld = t.columns;
    }
    ks_cpu_start_sum(j->cpu, sum, ld, t.pixels, t.columns, bias_at(j->w, t.column),
                     apart ? NULL : residual, j->residual.stride);
    ks_cpu_accumulate(j->cpu, sum, ld, t.pixels, t.columns, x, j->x.stride, j->w, 0, j->w->in,
                      t.column);
    if (j->activation == KS_ACT_NONE)
        return;
    for (int p = 0; p < t.pixels; p++) {
        v->activate(sum + p * ld, sum + p * ld, t.columns, j->activation);
        if (apart)
            v->add(y + p * j->y.stride, sum + p * ld, residual + p * j->residual.stride, t.columns);
    }
}

void ks_cpu_linear(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, ks_activation activation,
                   ks_act residual)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    bool fits = w->kh * w->kw == 1 && w->in == x.c && w->out == y.c && x.n == y.n &&
                ks_cpu_pixels(x) == ks_cpu_pixels(y) &&
                (!residual.data || ks_cpu_same_shape(residual, y));
    if (!ks_cpu_runs(cpu, fits, "linear", y, x))
        return;
    linear_job j = {cpu, y, x, residual, w, activation, {0}};
    j.tiles = ks_cpu_product_tiles(ks_cpu_pixels(y), w->out, w->in);
    if (ks_cpu_need_scratch(cpu, (int64_t)j.tiles.pixel_tile * j.tiles.column_tile) == 0)
        ks_threads_run(cpu->pool, ks_cpu_tasks(&j.tiles, y.n), linear_task, &j);
}

/* A tile's values and gates side by side in scratch. */
static void geglu_task(void *arg, int index, int worker)
{
    const linear_job *j = arg;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    float *sum = ks_cpu_worker_scratch(j->cpu, worker);
    float *y = ks_cpu_at(j->y, t.row, t.pixel) + t.column;
    const float *x = ks_cpu_at(j->x, t.row, t.pixel);
    const int64_t ld = 2 * (int64_t)t.columns;
    for (int half = 0; half < 2; half++) {
        float *to = sum + half * t.columns;
        int column = t.column + half * j->y.c;
        ks_cpu_start_sum(j->cpu, to, ld, t.pixels, t.columns, bias_at(j->w, column), NULL, 0);
        ks_cpu_accumulate(j->cpu, to, ld, t.pixels, t.columns, x, j->x.stride, j->w, 0, j->w->in,
                          column);
    }
    for (int p = 0; p < t.pixels; p++, sum += ld)
        j->cpu->vector->geglu(y + p * j->y.stride, sum, sum + t.columns, t.columns);
}

void ks_cpu_geglu(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w)
{
    ks_cpu *cpu = ks_cpu_of(ops);
    bool fits = w->kh * w->kw == 1 && w->in == x.c && w->out == 2 * y.c && x.n == y.n &&
                ks_cpu_pixels(x) == ks_cpu_pixels(y);
    if (!ks_cpu_runs(cpu, fits, "geglu", y, x))
        return;
    linear_job j = {.cpu = cpu, .y = y, .x = x, .w = w};
    j.tiles = ks_cpu_product_tiles(ks_cpu_pixels(y), y.c, w->in);
    if (ks_cpu_need_scratch(cpu, 2 * (int64_t)j.tiles.pixel_tile * j.tiles.column_tile) == 0)
        ks_threads_run(cpu->pool, ks_cpu_tasks(&j.tiles, y.n), geglu_task, &j);
}
