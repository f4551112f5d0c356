/* Convolutions as products: a tile of output pixels gathers its patches into scratch (im2col), some
 * taps at a time, and multiplies them with the weight's rows of those taps. */
#include <string.h>

#include "backend/cpu/cpu.h"

typedef struct conv_job {
    ks_cpu *cpu;
    ks_act y, x;
    const ks_weight *w;
    ks_conv how;
    int height, width; /* of x as the kernel sees it: after upsampling */
    bool direct;       /* the patches are x itself */
    int taps, step;    /* taps in all, and in one product */
    ks_cpu_tiles tiles;
} conv_job;

/* `taps` taps of one kernel row for one pixel: input row y, columns from x on. Zeros are
 * outside. */
static void gather_run(const conv_job *j, float *to, int row, int y, int x, int taps)
{
    const int c = j->x.c, shift = j->how.upsample ? 1 : 0;
    const size_t bytes = (size_t)c * sizeof *to;
    if (y < 0 || y >= j->height) {
        memset(to, 0, (size_t)taps * bytes);
        return;
    }
    int64_t line = (int64_t)(y >> shift) * j->x.w;
    if (x >= 0 && x + taps <= j->width && !shift && j->x.stride == c) {
        memcpy(to, ks_cpu_at(j->x, row, line + x), (size_t)taps * bytes);
        return;
    }
    for (int t = 0; t < taps; t++, to += c)
        if (x + t < 0 || x + t >= j->width)
            memset(to, 0, bytes);
        else
            memcpy(to, ks_cpu_at(j->x, row, line + ((x + t) >> shift)), bytes);
}

/* The patches [pixels][taps * c] of a tile, taps [first, end). */
static void gather(const conv_job *j, float *to, const ks_cpu_tile *t, int first, int end)
{
    const int kw = j->w->kw, c = j->x.c;
    for (int p = 0; p < t->pixels; p++) {
        int oy = (int)((t->pixel + p) / j->y.w), ox = (int)((t->pixel + p) % j->y.w);
        for (int tap = first, run; tap < end; tap += run, to += (int64_t)run * c) {
            int ky = tap / kw, kx = tap % kw;
            run = (int)ks_cpu_min(kw - kx, end - tap);
            gather_run(j, to, t->row, oy * j->how.stride + ky - j->how.pad,
                       ox * j->how.stride + kx - j->how.pad, run);
        }
    }
}

/* bias + row_bias of a tile's columns, in `sum`; NULL where there is neither. */
static const float *tile_bias(const conv_job *j, const ks_cpu_tile *t, float *sum)
{
    const float *bias = j->w->bias ? j->w->bias + t->column : NULL;
    if (!j->how.row_bias.data)
        return bias;
    const float *row_bias = ks_cpu_at(j->how.row_bias, t->row, 0) + t->column;
    if (!bias)
        return row_bias;
    j->cpu->vector->add(sum, bias, row_bias, t->columns);
    return sum;
}

static void conv_task(void *arg, int index, int worker)
{
    const conv_job *j = arg;
    const ks_act residual = j->how.residual;
    ks_cpu_tile t = ks_cpu_tile_of(&j->tiles, index);
    float *y = ks_cpu_at(j->y, t.row, t.pixel) + t.column;
    float *sum = ks_cpu_worker_scratch(j->cpu, worker), *patches = sum + j->tiles.column_tile;
    ks_cpu_start_sum(j->cpu, y, j->y.stride, t.pixels, t.columns, tile_bias(j, &t, sum),
                     residual.data ? ks_cpu_at(residual, t.row, t.pixel) + t.column : NULL,
                     residual.stride);
    if (j->direct) {
        ks_cpu_accumulate(j->cpu, y, j->y.stride, t.pixels, t.columns,
                          ks_cpu_at(j->x, t.row, t.pixel), j->x.stride, j->w, 0, j->x.c, t.column);
        return;
    }
    for (int tap = 0; tap < j->taps; tap += j->step) {
        int end = (int)ks_cpu_min(tap + j->step, j->taps);
        int64_t terms = (int64_t)(end - tap) * j->x.c;
        gather(j, patches, &t, tap, end);
        ks_cpu_accumulate(j->cpu, y, j->y.stride, t.pixels, t.columns, patches, terms, j->w,
                          (int64_t)tap * j->x.c, terms, t.column);
    }
}

/* The size that the kernel sees along one axis: `in`, or upsampled. An upsampled x of odd use gives
 * 2 * in - 1: then y says so, and the last copy is cut off before the kernel runs. */
static int seen(int in, int out, const ks_conv *how)
{
    return how->upsample ? (out == 2 * in - 1 ? out : 2 * in) : in;
}

static bool fits_axis(int size, int out, int kernel, const ks_conv *how)
{
    return size + 2 * how->pad >= kernel && out == (size + 2 * how->pad - kernel) / how->stride + 1;
}

static bool conv_fits(const conv_job *j)
{
    const ks_conv *how = &j->how;
    const ks_weight *w = j->w;
    const ks_act bias = how->row_bias;
    return w->in == j->x.c && w->out == j->y.c && j->x.n == j->y.n && how->stride > 0 &&
           fits_axis(j->height, j->y.h, w->kh, how) && fits_axis(j->width, j->y.w, w->kw, how) &&
           (!bias.data || (bias.n == j->y.n && ks_cpu_pixels(bias) == 1 && bias.c == j->y.c)) &&
           (!how->residual.data || ks_cpu_same_shape(how->residual, j->y));
}

void ks_cpu_conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    /* Of one product, roughly: patches of a tile then stay in the second-level cache. */
    enum { TERMS = 1536 };
    ks_cpu *cpu = ks_cpu_of(ops);
    conv_job j = {.cpu = cpu, .y = y, .x = x, .w = w, .how = *how, .taps = w->kh * w->kw};
    j.height = seen(x.h, y.h, how);
    j.width = seen(x.w, y.w, how);
    if (!ks_cpu_runs(cpu, conv_fits(&j), "conv", y, x))
        return;
    j.direct = j.taps == 1 && how->stride == 1 && how->pad == 0 && !how->upsample;
    j.step = (int)ks_cpu_min(TERMS / x.c > 0 ? TERMS / x.c : 1, j.taps);
    j.tiles = ks_cpu_product_tiles(ks_cpu_pixels(y), w->out, (int64_t)j.taps * x.c);
    int64_t patches = j.direct ? 0 : (int64_t)j.tiles.pixel_tile * j.step * x.c;
    if (ks_cpu_need_scratch(cpu, j.tiles.column_tile + patches) == 0)
        ks_threads_run(cpu->pool, ks_cpu_tasks(&j.tiles, y.n), conv_task, &j);
}
