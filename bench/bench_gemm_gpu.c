/* The linear layers of SDXL at 1024 x 1024 and SD 1.5 at 512 x 512 on a GPU: each of the own
 * product's kernels beside cuBLASLt (and its gate as a pass of its own), on random numbers.
 *   bench_gemm_gpu [PRECISION [ROWS]]     "fp16", 16
 * A line is the shape, the library's time in ms and its rate in TFLOP/s, each kernel's, and those of
 * what is chosen.
 * Ends with an error where a result is not the library's. */
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/parameters.h"
#include "gpu_bench.h"

typedef struct shape {
    const char *model, *name;
    int side, in, out;
    bool gated, residual;
} shape;

static const shape shapes[] = {
    {"sdxl", "qkv", 32, 1280, 3840, 0, 0},   {"sdxl", "out", 32, 1280, 1280, 0, 1},
    {"sdxl", "geglu", 32, 1280, 5120, 1, 0}, {"sdxl", "ff", 32, 5120, 1280, 0, 1},
    {"sdxl", "qkv", 64, 640, 1920, 0, 0},    {"sdxl", "out", 64, 640, 640, 0, 1},
    {"sdxl", "geglu", 64, 640, 2560, 1, 0},  {"sdxl", "ff", 64, 2560, 640, 0, 1},
    {"sd15", "qkv", 64, 320, 960, 0, 0},     {"sd15", "out", 64, 320, 320, 0, 1},
    {"sd15", "geglu", 64, 320, 1280, 1, 0},  {"sd15", "ff", 64, 1280, 320, 0, 1},
    {"sd15", "out", 32, 640, 640, 0, 1},     {"sd15", "geglu", 32, 640, 2560, 1, 0},
    {"sd15", "ff", 32, 2560, 640, 0, 1},     {"sd15", "out", 16, 1280, 1280, 0, 1},
    {"sd15", "geglu", 16, 1280, 5120, 1, 0}, {"sd15", "ff", 16, 5120, 1280, 0, 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes, LIBRARY = -1, CHOSEN = -2 };

typedef struct layer {
    ks_ops *ops;
    const shape *s;
    ks_weight *plain; /* as the library reads it */
    void *packed, *workspace;
    ks_act x, y, both, residual;
} layer;

/* A layer, and by what it is made: the library, the kernel that is chosen, or one of the kernels. */
typedef struct way {
    const layer *layer;
    int kernel;
} way;

static layer new_layer(ks_ops *ops, const shape *s, int rows)
{
    ks_error err = KS_ERROR_NONE;
    const ks_cuda *c = ks_cuda_of(ops);
    const int out = s->gated ? 2 * s->out : s->out;
    layer l = {.ops = ops, .s = s};
    float *zeros = calloc((size_t)out * (size_t)s->in, sizeof *zeros);
    need(zeros != NULL, &(ks_error){"no memory"});
    ks_view w = {.data = zeros, .dtype = KS_F32, .rank = 2, .shape = {out, s->in}};
    ks_view bias = {.data = zeros, .dtype = KS_F32, .rank = 1, .shape = {out}};
    l.plain = ops->weight(ops, KS_USE_CONV, 1, &w, &bias, &err);
    need(l.plain != NULL, &err);
    free(zeros);
    ks_cuda_random_rows(c->stream, c->type, l.plain->data, out, s->in, 0, 9);
    ks_cuda_random_rows(c->stream, KS_F32, l.plain->bias, 1, out, 0, 8);
    ks_cuda_random_rows(c->stream, c->type, l.plain->bias_typed, 1, out, 0, 8);
    l.packed = ops->alloc(ops, (size_t)out * (size_t)s->in * ks_cuda_element(c), &err);
    need(l.packed != NULL, &err);
    need(ks_cuda_gemm_pack(c->stream, l.packed, l.plain->data, out, s->in, s->gated) == 0,
         &(ks_error){"the weight was not packed"});
    l.x = random_act(ops, rows, s->side, s->side, s->in, 1);
    l.y = random_act(ops, rows, s->side, s->side, s->out, 2);
    l.both = s->gated ? random_act(ops, rows, s->side, s->side, out, 3) : (ks_act){0};
    l.residual = s->residual ? random_act(ops, rows, s->side, s->side, s->out, 4) : (ks_act){0};
    const size_t parts = ks_cuda_gemm_workspace(l.y, s->in, s->gated);
    l.workspace = parts ? ks_cuda_take(ks_cuda_of(ops), parts) : NULL;
    settle(ops);
    return l;
}

static const char *name_of(int kernel)
{
    return kernel == LIBRARY ? "cuBLASLt" : kernel == CHOSEN ? "chosen" : ks_cuda_gemm_name(kernel);
}

/* Queues the layer; false after a failure. */
static bool run(const void *what)
{
    const way *how = what;
    const layer *l = how->layer;
    ks_cuda *c = ks_cuda_of(l->ops);
    const shape *s = l->s;
    const ks_cuda_gemm_epilogue after = {
        .bias = l->plain->bias, .residual = l->residual, .gated = s->gated};
    if (how->kernel == CHOSEN)
        return ks_cuda_gemm(c->stream, c->type, l->y, l->x, l->packed, &after, l->workspace) == 0;
    if (how->kernel != LIBRARY)
        return ks_cuda_gemm_by(how->kernel, 1, c->stream, c->type, l->y, l->x, l->packed, &after,
                               NULL) == 0;
    return ks_cuda_product(c, s->gated ? l->both : l->y, l->x, l->plain, true, l->residual) &&
           (!s->gated || ks_cuda_gate(c->stream, c->type, l->y, l->both) == 0);
}

/* Whether every kernel's result is the library's. */
static bool bench_shape(ks_ops *ops, const shape *s, int rows)
{
    const double bound = ks_cuda_of(ops)->type == KS_F16 ? 0x1p-9 : 0x1p-6;
    const double flops = 2.0 * rows * s->side * s->side * s->in * s->out * (s->gated ? 2 : 1);
    size_t mark = ops->mark(ops);
    bool good = true;
    layer l = new_layer(ops, s, rows);
    float *right = NULL;
    printf("%s %-5s %2dx%2d^2 %4d>%-4d", s->model, s->name, rows, s->side, s->in, s->out);
    for (int k = LIBRARY; k <= ks_cuda_gemm_kernels(); k++) {
        const way how = {.layer = &l, .kernel = k < ks_cuda_gemm_kernels() ? k : CHOSEN};
        const double ms = ms_of(ops, run, &how);
        need(ms >= 0, &(ks_error){"a product was refused"});
        if (k == LIBRARY)
            right = sample_of(ops, l.y);
        const double error = error_of(ops, run, &how, l.y, right);
        printf(" | %s %.4f %4.0f", name_of(how.kernel), ms, flops / ms * 1e-9);
        if (!(error <= bound)) {
            printf(" WRONG by %.2e", error);
            good = false;
        }
    }
    printf("\n");
    fflush(stdout);
    free(right);
    ops->release(ops, l.packed);
    ops->weight_free(ops, l.plain);
    ops->unwind(ops, mark);
    return good;
}

int main(int argc, char **argv)
{
    ks_error err = KS_ERROR_NONE;
    bool good = true;
    ks_ops *ops = ks_ops_cuda(0, argc > 1 ? argv[1] : "fp16", &err);
    need(ops != NULL, &err);
    need(ks_cuda_gemm_fits(ks_cuda_of(ops)->type, 64, 64),
         &(ks_error){"the own product is for fp16 and bf16 on sm_90a"});
    for (int i = 0; i < SHAPES; i++)
        good = bench_shape(ops, &shapes[i], argc > 2 ? atoi(argv[2]) : 16) && good;
    ops->free(ops);
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
