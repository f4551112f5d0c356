/* The convolutions of SDXL at 1024 x 1024, SD 1.5 at 512 x 512 and the VAE decoder at 1024 x 1024 (one
 * row) on a GPU, on random numbers: by each of the CUDA backend's engines, by each kernel of the own
 * product, and by the way that the backend takes with that product and without.
 *   bench_conv_gpu [PRECISION [ROWS...]]     fp16, 16 2
 * A line is the shape, how often a call has it, and ms and TFLOP/s of each; "x 4" is a sum in four
 * parts. Rates count a convolution's nine taps, which an upsampling one has not. Shapes with a row
 * bias are there without one too. Ends with what a call's convolutions come to, and with an error
 * where a result is not the library's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "kernels/gemm.h"
#include "kernels/parameters.h"
#include "gpu_bench.h"

typedef struct shape {
    const char *model;
    int side, in, out, stride;
    bool upsample, row_bias, residual;
    int count; /* in a call */
} shape;

static const shape shapes[] = {
    {"sdxl", 128, 4, 320, 1, 0, 0, 0, 1},     {"sdxl", 128, 320, 320, 1, 0, 1, 0, 2},
    {"sdxl", 128, 320, 320, 1, 0, 0, 1, 5},   {"sdxl", 128, 640, 320, 1, 0, 1, 0, 2},
    {"sdxl", 128, 960, 320, 1, 0, 1, 0, 1},   {"sdxl", 128, 320, 320, 2, 0, 0, 0, 1},
    {"sdxl", 64, 320, 640, 1, 0, 1, 0, 1},    {"sdxl", 64, 640, 640, 1, 0, 1, 0, 1},
    {"sdxl", 64, 640, 640, 1, 0, 0, 1, 5},    {"sdxl", 64, 960, 640, 1, 0, 1, 0, 1},
    {"sdxl", 64, 1280, 640, 1, 0, 1, 0, 1},   {"sdxl", 64, 1920, 640, 1, 0, 1, 0, 1},
    {"sdxl", 64, 640, 640, 2, 0, 0, 0, 1},    {"sdxl", 64, 640, 640, 1, 1, 0, 0, 1},
    {"sdxl", 32, 640, 1280, 1, 0, 1, 0, 1},   {"sdxl", 32, 1280, 1280, 1, 0, 1, 0, 3},
    {"sdxl", 32, 1280, 1280, 1, 0, 0, 1, 7},  {"sdxl", 32, 1920, 1280, 1, 0, 1, 0, 1},
    {"sdxl", 32, 2560, 1280, 1, 0, 1, 0, 2},  {"sdxl", 32, 1280, 1280, 1, 1, 0, 0, 1},
    {"sdxl", 128, 320, 4, 1, 0, 0, 0, 1},     {"sd15", 64, 4, 320, 1, 0, 0, 0, 1},
    {"sd15", 64, 320, 320, 1, 0, 1, 0, 2},    {"sd15", 64, 320, 320, 1, 0, 0, 1, 5},
    {"sd15", 64, 640, 320, 1, 0, 1, 0, 2},    {"sd15", 64, 960, 320, 1, 0, 1, 0, 1},
    {"sd15", 64, 320, 320, 2, 0, 0, 0, 1},    {"sd15", 32, 320, 640, 1, 0, 1, 0, 1},
    {"sd15", 32, 640, 640, 1, 0, 1, 0, 1},    {"sd15", 32, 640, 640, 1, 0, 0, 1, 5},
    {"sd15", 32, 960, 640, 1, 0, 1, 0, 1},    {"sd15", 32, 1280, 640, 1, 0, 1, 0, 1},
    {"sd15", 32, 1920, 640, 1, 0, 1, 0, 1},   {"sd15", 32, 640, 640, 2, 0, 0, 0, 1},
    {"sd15", 32, 640, 640, 1, 1, 0, 0, 1},    {"sd15", 16, 640, 1280, 1, 0, 1, 0, 1},
    {"sd15", 16, 1280, 1280, 1, 0, 1, 0, 1},  {"sd15", 16, 1280, 1280, 1, 0, 0, 1, 5},
    {"sd15", 16, 1920, 1280, 1, 0, 1, 0, 1},  {"sd15", 16, 2560, 1280, 1, 0, 1, 0, 2},
    {"sd15", 16, 1280, 1280, 2, 0, 0, 0, 1},  {"sd15", 16, 1280, 1280, 1, 1, 0, 0, 1},
    {"sd15", 8, 1280, 1280, 1, 0, 1, 0, 4},   {"sd15", 8, 1280, 1280, 1, 0, 0, 1, 7},
    {"sd15", 8, 2560, 1280, 1, 0, 1, 0, 3},   {"sd15", 8, 1280, 1280, 1, 1, 0, 0, 1},
    {"sd15", 64, 320, 4, 1, 0, 0, 0, 1},      {"vae", 128, 512, 512, 1, 0, 0, 0, 5},
    {"vae", 128, 512, 512, 1, 0, 0, 1, 5},    {"vae", 128, 512, 512, 1, 1, 0, 0, 1},
    {"vae", 256, 512, 512, 1, 0, 0, 0, 3},    {"vae", 256, 512, 512, 1, 0, 0, 1, 3},
    {"vae", 256, 512, 512, 1, 1, 0, 0, 1},    {"vae", 512, 512, 256, 1, 0, 0, 0, 1},
    {"vae", 512, 256, 256, 1, 0, 0, 0, 2},    {"vae", 512, 256, 256, 1, 0, 0, 1, 3},
    {"vae", 512, 256, 256, 1, 1, 0, 0, 1},    {"vae", 1024, 256, 128, 1, 0, 0, 0, 1},
    {"vae", 1024, 128, 128, 1, 0, 0, 0, 2},   {"vae", 1024, 128, 128, 1, 0, 0, 1, 3},
    {"vae", 1024, 128, 3, 1, 0, 0, 0, 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, MOST_PARTS = 16 };

typedef struct layer {
    ks_ops *ops;
    const shape *s;
    ks_weight *w, plain; /* as the backend keeps it, and as the libraries read it */
    ks_act x, y;
    ks_conv how;
    void *workspace; /* for all parts; NULL where there are too many pixels for parts */
} layer;

/* By what a layer is made. */
typedef struct way {
    const layer *layer;
    enum { ENGINE, KERNEL, WITHOUT_PRODUCT, WITH_PRODUCT } by;
    int which, parts; /* engine, or kernel */
} way;

/* Zeros with biases; then random numbers in place of the zeros, in both orders. */
static void make_weights(layer *l)
{
    ks_error err = KS_ERROR_NONE;
    const shape *s = l->s;
    const ks_cuda *c = ks_cuda_of(l->ops);
    const int terms = s->in * 9;
    float *zeros = calloc((size_t)s->out * (size_t)terms, sizeof *zeros);
    need(zeros != NULL, &(ks_error){"no memory"});
    ks_view w = {.data = zeros, .dtype = KS_F32, .rank = 4, .shape = {s->out, s->in, 3, 3}};
    ks_view bias = {.data = zeros, .dtype = KS_F32, .rank = 1, .shape = {s->out}};
    const ks_weight_use use = s->upsample ? KS_USE_UPSAMPLE : KS_USE_CONV;
    l->w = l->ops->weight(l->ops, use, 1, &w, &bias, &err);
    need(l->w != NULL, &err);
    free(zeros);
    ks_cuda_random_rows(c->stream, KS_F32, l->w->bias, 1, s->out, 0, 8);
    ks_cuda_random_rows(c->stream, c->type, l->w->bias_typed, 1, s->out, 0, 8);
    l->plain = *l->w;
    l->plain.packed = false;
    l->plain.data =
        l->ops->alloc(l->ops, (size_t)s->out * (size_t)terms * ks_cuda_element(c), &err);
    need(l->plain.data != NULL, &err);
    ks_cuda_random_rows(c->stream, c->type, l->plain.data, s->out, terms, 0, 9);
    ks_cuda_random_rows(c->stream, c->type, l->w->data, s->out, terms, 0, 9);
    need(!l->w->packed ||
             ks_cuda_gemm_pack(c->stream, l->w->data, l->plain.data, s->out, terms, false) == 0,
         &(ks_error){"the weight was not packed"});
    if (!l->w->phases)
        return;
    void *sums = ks_cuda_take(ks_cuda_of(l->ops),
                              (size_t)s->out * (size_t)s->in * 16 * ks_cuda_element(c));
    need(ks_cuda_gemm_sum_phases(c->stream, c->type, sums, l->plain.data, s->out, s->in) == 0 &&
             ks_cuda_gemm_pack(c->stream, l->w->phases, sums, 4 * s->out, 4 * s->in, false) == 0,
         &(ks_error){"the weight's phases were not packed"});
}

static ks_cuda_window window_of(const layer *l)
{
    const bool up = l->s->upsample;
    return (ks_cuda_window){.kh = 3,
                            .kw = 3,
                            .stride = l->how.stride,
                            .pad = 1,
                            .height = up ? l->y.h : l->x.h,
                            .width = up ? l->y.w : l->x.w,
                            .upsample = up};
}

/* Memory for the parts' sums of any kernel, as long as they are few. */
static void *new_workspace(const layer *l)
{
    const ks_cuda_window window = window_of(l);
    size_t most = 0;
    for (int k = 0; k < ks_cuda_gemm_kernels(); k++) {
        size_t bytes = ks_cuda_gemm_conv_workspace_by(k, MOST_PARTS, l->y, &window, l->s->in);
        most = bytes > most ? bytes : most;
    }
    return l->y.n * l->y.h * l->y.w <= 4096 ? ks_cuda_take(ks_cuda_of(l->ops), most) : NULL;
}

static layer new_layer(ks_ops *ops, const shape *s, int rows)
{
    const int out = s->upsample ? 2 * s->side : s->side / s->stride;
    layer l = {.ops = ops, .s = s, .how = {s->stride, 1, s->upsample, {0}, {0}}};
    make_weights(&l);
    l.x = random_act(ops, rows, s->side, s->side, s->in, 1);
    l.y = random_act(ops, rows, out, out, s->out, 2);
    if (s->row_bias)
        l.how.row_bias = random_act(ops, rows, 1, 1, s->out, 3);
    if (s->residual)
        l.how.residual = random_act(ops, rows, out, out, s->out, 4);
    l.workspace = new_workspace(&l);
    settle(ops);
    return l;
}

static void free_layer(layer *l)
{
    l->ops->release(l->ops, l->plain.data);
    l->ops->weight_free(l->ops, l->w);
}

/* One kernel of the own product. */
static bool run_kernel(const way *how)
{
    const layer *l = how->layer;
    const ks_cuda *c = ks_cuda_of(l->ops);
    const bool up = l->s->upsample;
    const ks_cuda_window window = window_of(l);
    const ks_cuda_gemm_epilogue after = {
        .bias = l->w->bias, .row_bias = l->how.row_bias, .residual = l->how.residual};
    return l->w->packed && (how->parts == 1 || l->workspace) &&
           l->s->in / 64 * (up ? 4 : 9) % how->parts == 0 &&
           ks_cuda_gemm_conv_by(how->which, how->parts, c->stream, c->type, l->y, l->x,
                                up ? l->w->phases : l->w->data, &window, &after,
                                l->workspace) == 0;
}

/* Queues the layer; false where it cannot be made so. */
static bool run(const void *what)
{
    const way *how = what;
    const layer *l = how->layer;
    if (how->by == ENGINE)
        return ks_cuda_conv_by(l->ops, (ks_cuda_conv_engine)how->which, l->y, l->x, &l->plain,
                               &l->how);
    if (how->by == KERNEL)
        return run_kernel(how);
    l->ops->conv(l->ops, l->y, l->x, how->by == WITH_PRODUCT ? l->w : &l->plain, &l->how);
    return true;
}

/* Times one way and prints it where it is one; its ms. */
static double bench_way(const way *how, const char *name, const float *right, bool *good)
{
    const layer *l = how->layer;
    const double bound = ks_cuda_of(l->ops)->type == KS_F16 ? 0x1p-9 : 0x1p-6;
    const double flops = 18.0 * l->y.n * l->y.h * l->y.w * l->s->in * l->s->out;
    const double ms = ms_of(l->ops, run, how);
    if (ms < 0)
        return ms;
    printf(" | %s", name);
    if (how->parts > 1)
        printf(" x %d", how->parts);
    printf(" %.4f %4.0f", ms, flops / ms * 1e-9);
    const double error = error_of(l->ops, run, how, l->y, right);
    if (!(error <= bound)) {
        printf(" WRONG by %.2e", error);
        *good = false;
    }
    return ms;
}

/* The first result of cuDNN, or of what the backend takes without it; free() it. */
static float *right_of(const layer *l)
{
    const way library = {l, ENGINE, KS_CUDA_CONV_LIBRARY, 1}, other = {l, WITHOUT_PRODUCT, 0, 1};
    if (!run(&library))
        run(&other);
    return sample_of(l->ops, l->y);
}

/* Adds what a call has of it, without the own product and with it, to sum. */
static void bench_shape(ks_ops *ops, const shape *s, int rows, double sum[2], bool *good)
{
    static const char *const engines[] = {"fused", "cudnn", "columns"};
    size_t mark = ops->mark(ops);
    layer l = new_layer(ops, s, rows);
    float *right = right_of(&l);
    printf("%-4s %2dx%3d^2 %4d>%4d%s%s%s%s, %d", s->model, rows, s->side, s->in, s->out,
           s->stride == 2 ? " down" : "", s->upsample ? " up" : "", s->row_bias ? " row" : "",
           s->residual ? " res" : "", s->count);
    for (int e = 0; e < KS_CUDA_CONV_DIRECT; e++)
        bench_way(&(way){&l, ENGINE, e, 1}, engines[e], right, good);
    for (int k = 0; k < ks_cuda_gemm_kernels(); k++)
        for (int parts = 1; parts <= MOST_PARTS; parts++)
            bench_way(&(way){&l, KERNEL, k, parts}, ks_cuda_gemm_name(k), right, good);
    sum[0] += s->count * bench_way(&(way){&l, WITHOUT_PRODUCT, 0, 1}, "WITHOUT", right, good);
    sum[1] += s->count * bench_way(&(way){&l, WITH_PRODUCT, 0, 1}, "WITH", right, good);
    printf("\n");
    fflush(stdout);
    free(right);
    settle(ops);
    free_layer(&l);
    ops->unwind(ops, mark);
}

static bool bench_model(ks_ops *ops, const char *model, int rows)
{
    double sum[2] = {0, 0};
    bool good = true;
    for (int i = 0; i < SHAPES; i++) {
        if (strcmp(shapes[i].model, model) != 0)
            continue;
        shape plain = shapes[i];
        bench_shape(ops, &shapes[i], rows, sum, &good);
        plain.row_bias = false;
        plain.count = 0;
        if (shapes[i].row_bias)
            bench_shape(ops, &plain, rows, sum, &good);
    }
    printf("%s, %d rows: %.4f ms a row without the own product, %.4f with it\n", model, rows,
           sum[0] / rows, sum[1] / rows);
    return good;
}

int main(int argc, char **argv)
{
    ks_error err = KS_ERROR_NONE;
    bool good = true;
    char *usual[] = {"16", "2"}, **rows = argc > 2 ? argv + 2 : usual;
    const int counts = argc > 2 ? argc - 2 : 2;
    ks_ops *ops = ks_ops_cuda(0, argc > 1 ? argv[1] : "fp16", &err);
    need(ops != NULL, &err);
    for (int i = 0; i < counts; i++) {
        good = bench_model(ops, "sdxl", atoi(rows[i])) && good;
        good = bench_model(ops, "sd15", atoi(rows[i])) && good;
    }
    good = bench_model(ops, "vae", 1) && good;
    ops->free(ops);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
