/* The convolutions of SDXL and SD 1.5 by each of the CUDA backend's engines, and which it takes.
 *   bench_conv_gpu [PRECISION [ROWS]]     "fp16", 16 */
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "kernels/parameters.h"
#include "gpu_bench.h"

typedef struct shape {
    const char *model;
    int side, in, out, stride;
    bool upsample, row_bias, residual;
} shape;

static const shape shapes[] = {
    {"sdxl", 128, 4, 320, 1, 0, 0, 0},     {"sdxl", 128, 320, 320, 1, 0, 1, 0},
    {"sdxl", 128, 320, 320, 1, 0, 0, 1},   {"sdxl", 128, 640, 320, 1, 0, 1, 0},
    {"sdxl", 128, 960, 320, 1, 0, 1, 0},   {"sdxl", 128, 320, 320, 2, 0, 0, 0},
    {"sdxl", 64, 320, 640, 1, 0, 1, 0},    {"sdxl", 64, 640, 640, 1, 0, 0, 1},
    {"sdxl", 64, 960, 640, 1, 0, 1, 0},    {"sdxl", 64, 1280, 640, 1, 0, 1, 0},
    {"sdxl", 64, 1920, 640, 1, 0, 1, 0},   {"sdxl", 64, 640, 640, 2, 0, 0, 0},
    {"sdxl", 64, 640, 640, 1, 1, 0, 0},    {"sdxl", 32, 640, 1280, 1, 0, 1, 0},
    {"sdxl", 32, 1280, 1280, 1, 0, 0, 1},  {"sdxl", 32, 1920, 1280, 1, 0, 1, 0},
    {"sdxl", 32, 2560, 1280, 1, 0, 1, 0},  {"sdxl", 32, 1280, 1280, 1, 1, 0, 0},
    {"sdxl", 128, 320, 4, 1, 0, 0, 0},     {"sd15", 64, 320, 320, 1, 0, 0, 1},
    {"sd15", 64, 320, 320, 2, 0, 0, 0},    {"sd15", 32, 640, 640, 1, 0, 0, 1},
    {"sd15", 32, 1920, 640, 1, 0, 1, 0},   {"sd15", 32, 640, 640, 2, 0, 0, 0},
    {"sd15", 16, 1280, 1280, 1, 0, 0, 1},  {"sd15", 16, 2560, 1280, 1, 0, 1, 0},
    {"sd15", 16, 1280, 1280, 2, 0, 0, 0},  {"sd15", 8, 1280, 1280, 1, 0, 0, 1},
    {"sd15", 8, 2560, 1280, 1, 0, 1, 0},   {"sd15", 8, 1280, 1280, 1, 1, 0, 0},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Zeros with a bias of ones; then random numbers in place of the zeros. */
static ks_weight *random_weight(ks_ops *ops, const shape *s)
{
    ks_error err;
    const int64_t terms = (int64_t)s->in * 9;
    float *zeros = calloc((size_t)(s->out * terms), sizeof *zeros);
    need(zeros != NULL, &(ks_error){"no memory"});
    ks_view w = {.data = zeros, .dtype = KS_F32, .rank = 4, .shape = {s->out, s->in, 3, 3}};
    ks_view bias = {.data = zeros, .dtype = KS_F32, .rank = 1, .shape = {s->out}};
    ks_weight *weight = ops->weight(ops, KS_USE_CONV, 1, &w, &bias, &err);
    need(weight != NULL, &err);
    const ks_cuda *cuda = ks_cuda_of(ops);
    ks_cuda_random_rows(cuda->stream, cuda->type, weight->data, s->out, terms, 0, 9);
    free(zeros);
    return weight;
}

/* The median of some runs, in ms; negative when the engine cannot do it. */
static float time_of(ks_ops *ops, ks_cuda_conv_engine engine, ks_act y, ks_act x,
                     const ks_weight *w, const ks_conv *how)
{
    enum { RUNS = 7 };
    float ms[RUNS];
    cudaEvent_t begin, end;
    cudaStream_t stream = ks_cuda_of(ops)->stream;
    if (!ks_cuda_conv_by(ops, engine, y, x, w, how))
        return -1;
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    for (int i = 0; i < RUNS; i++) {
        cudaEventRecord(begin, stream);
        ks_cuda_conv_by(ops, engine, y, x, w, how);
        cudaEventRecord(end, stream);
        cudaEventSynchronize(end);
        cudaEventElapsedTime(&ms[i], begin, end);
    }
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    return median_of(ms, RUNS);
}

static void bench_shape(ks_ops *ops, const shape *s, int rows)
{
    static const char *const names[] = {"fused", "cudnn", "columns", "own"};
    ks_error err = KS_ERROR_NONE;
    ks_cuda *c = ks_cuda_of(ops);
    const int out = s->upsample ? 2 * s->side : s->side / s->stride;
    size_t mark = ops->mark(ops);
    ks_weight *w = random_weight(ops, s);
    ks_act x = random_act(ops, rows, s->side, s->side, s->in, 1);
    ks_act y = random_act(ops, rows, out, out, s->out, 2);
    ks_conv how = {.stride = s->stride, .pad = 1, .upsample = s->upsample};
    if (s->row_bias)
        how.row_bias = random_act(ops, rows, 1, 1, s->out, 3);
    if (s->residual)
        how.residual = random_act(ops, rows, out, out, s->out, 4);
    const double flops = 18.0 * rows * out * out * s->in * s->out;
    printf("%s %2dx%3d^2 %4d>%4d%s%s%s%s", s->model, rows, s->side, s->in, s->out,
           s->stride == 2 ? " down" : "", s->upsample ? " up" : "", s->row_bias ? " row" : "",
           s->residual ? " res" : "");
    ops->conv(ops, y, x, w, &how);
    const char *taken = c->convs ? names[c->conv[c->convs - 1]->engine] : "none";
    for (int e = 0; e < KS_CUDA_CONV_DIRECT; e++) {
        float ms = time_of(ops, (ks_cuda_conv_engine)e, y, x, w, &how);
        if (ms > 0)
            printf("  %s %.3f ms %4.0f TF/s", names[e], (double)ms, flops / (double)ms * 1e-9);
    }
    printf("  takes %s\n", taken);
    fflush(stdout);
    need(ops->sync(ops, &err) == 0, &err);
    ops->weight_free(ops, w);
    ops->unwind(ops, mark);
}

int main(int argc, char **argv)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = ks_ops_cuda(0, argc > 1 ? argv[1] : "fp16", &err);
    need(ops != NULL, &err);
    for (int i = 0; i < SHAPES; i++)
        bench_shape(ops, &shapes[i], argc > 2 ? atoi(argv[2]) : 16);
    ops->free(ops);
    return EXIT_SUCCESS;
}
