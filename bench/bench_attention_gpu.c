/* The attention of SDXL at 1024 x 1024 and SD 1.5 at 512 x 512 on a GPU, on random numbers, and
 * what all of a UNet call's come to.
 *   bench_attention_gpu [PRECISION [ROWS...]]     fp16, 16 2
 *
 * Self-attention reads thirds of one tensor, as the networks do; cross-attention 77 keys of two
 * conditionings in turn. A time is the median of RUNS replays of a graph of CALLS calls, each on
 * other memory than the last, so that nothing is in the cache but what a call itself put there.
 * TB/s counts q and y once, and k and v once a row. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/parameters.h"
#include "gpu_bench.h"

enum { RUNS = 15, CALLS = 8, SETS = 2, CONDITIONINGS = 2, PROMPT = 77 };

typedef struct shape {
    const char *model;
    int tokens, heads, width, cross;
    int count; /* in a UNet call */
} shape;

static const shape shapes[] = {
    {"sdxl", 4096, 10, 64, 0, 10}, {"sdxl", 1024, 20, 64, 0, 60}, {"sdxl", 4096, 10, 64, 1, 10},
    {"sdxl", 1024, 20, 64, 1, 60}, {"sd15", 4096, 8, 40, 0, 5},   {"sd15", 1024, 8, 80, 0, 5},
    {"sd15", 256, 8, 160, 0, 5},   {"sd15", 64, 8, 160, 0, 1},    {"sd15", 4096, 8, 40, 1, 5},
    {"sd15", 1024, 8, 80, 1, 5},   {"sd15", 256, 8, 160, 1, 5},   {"sd15", 64, 8, 160, 1, 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static void must(int failed, const char *what)
{
    if (!failed)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString((cudaError_t)failed));
    exit(EXIT_FAILURE);
}

/* The arrays of one call. */
typedef struct operands {
    ks_act y, q, k, v;
    void *memory[3];
} operands;

/* [n, tokens, c] of random numbers. */
static ks_act random_tensor(ks_dtype type, int n, int tokens, int c, uint32_t seed)
{
    ks_act a = {.n = n, .h = tokens, .w = 1, .c = c, .stride = c};
    const size_t element = type == KS_F32 ? 4 : 2;
    must((int)cudaMalloc(&a.data, (size_t)n * (size_t)tokens * (size_t)c * element), "memory");
    must(ks_cuda_random_rows(NULL, type, a.data, n, (int64_t)tokens * c, 0, seed), "numbers");
    return a;
}

/* Channels [first, first + c) of every token. */
static ks_act slice(ks_act a, ks_dtype type, int first, int c)
{
    a.data = (char *)a.data + (size_t)first * (type == KS_F32 ? 4 : 2);
    a.c = c;
    return a;
}

static operands new_operands(const shape *s, ks_dtype type, int rows, uint32_t seed)
{
    const int c = s->heads * s->width;
    operands o = {.y = random_tensor(type, rows, s->tokens, c, seed)};
    const ks_act q = random_tensor(type, rows, s->tokens, s->cross ? c : 3 * c, seed + 1);
    o.q = slice(q, type, 0, c);
    o.memory[0] = o.y.data;
    o.memory[1] = q.data;
    if (s->cross) {
        const ks_act kv = random_tensor(type, CONDITIONINGS, PROMPT, 2 * c, seed + 2);
        o.memory[2] = kv.data;
        o.k = slice(kv, type, 0, c);
        o.v = slice(kv, type, c, c);
    } else {
        o.k = slice(q, type, c, c);
        o.v = slice(q, type, 2 * c, c);
    }
    return o;
}

/* A graph of CALLS calls. kv_row: device [rows]. */
static cudaGraphExec_t calls_of(const shape *s, ks_dtype type, const operands *o,
                                const int32_t *kv_row, cudaStream_t stream)
{
    cudaGraph_t graph;
    cudaGraphExec_t calls;
    must((int)cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "graph");
    for (int i = 0; i < CALLS; i++) {
        const operands *p = &o[i % SETS];
        must(ks_cuda_attention(stream, type, p->y, p->q, p->k, p->v, s->heads, false,
                               s->cross ? kv_row : NULL, NULL, NULL, 0),
             "attention");
    }
    must((int)cudaStreamEndCapture(stream, &graph), "graph");
    must((int)cudaGraphInstantiate(&calls, graph, 0), "graph");
    must((int)cudaGraphDestroy(graph), "graph");
    return calls;
}

/* Milliseconds a call. */
static double time_of(const shape *s, ks_dtype type, const operands *o, const int32_t *kv_row)
{
    float ms[RUNS];
    cudaEvent_t begin, end;
    cudaStream_t stream;
    must((int)cudaDeviceSynchronize(), "numbers");
    must((int)cudaStreamCreate(&stream), "stream");
    must((int)cudaEventCreate(&begin), "event");
    must((int)cudaEventCreate(&end), "event");
    cudaGraphExec_t calls = calls_of(s, type, o, kv_row, stream);
    for (int run = -2; run < RUNS; run++) {
        must((int)cudaEventRecord(begin, stream), "event");
        must((int)cudaGraphLaunch(calls, stream), "graph");
        must((int)cudaEventRecord(end, stream), "event");
        must((int)cudaEventSynchronize(end), "attention");
        if (run >= 0)
            must((int)cudaEventElapsedTime(&ms[run], begin, end), "event");
    }
    must((int)cudaGraphExecDestroy(calls), "graph");
    must((int)cudaEventDestroy(begin), "event");
    must((int)cudaEventDestroy(end), "event");
    must((int)cudaStreamDestroy(stream), "stream");
    return (double)median_of(ms, RUNS) / CALLS;
}

/* Prints a shape's line; milliseconds a call. */
static double bench_shape(const shape *s, ks_dtype type, int rows, const int32_t *kv_row)
{
    operands o[SETS];
    const int keys = s->cross ? PROMPT : s->tokens;
    const double values = (double)rows * s->heads * s->width;
    for (int i = 0; i < SETS; i++)
        o[i] = new_operands(s, type, rows, 10 * (uint32_t)i);
    const double ms = time_of(s, type, o, kv_row);
    printf("%s %2d x %4d tokens, %4d keys, %2d x %3d  %8.4f ms  %5.0f TFLOP/s  %5.2f TB/s\n",
           s->model, rows, s->tokens, keys, s->heads, s->width, ms,
           4 * values * s->tokens * keys / ms * 1e-9,
           2 * values * (s->tokens + keys) * (type == KS_F32 ? 4 : 2) / ms * 1e-9);
    for (int i = 0; i < SETS; i++)
        for (int m = 0; m < 3; m++)
            must((int)cudaFree(o[i].memory[m]), "cudaFree");
    return ms;
}

static void bench_rows(ks_dtype type, int rows)
{
    double sum[2][2] = {{0}}; /* [SD 1.5][cross] */
    int32_t *host = calloc((size_t)rows, sizeof *host), *kv_row;
    must(host ? (int)cudaSuccess : (int)cudaErrorMemoryAllocation, "memory");
    for (int i = 0; i < rows; i++)
        host[i] = i % CONDITIONINGS;
    must((int)cudaMalloc((void **)&kv_row, (size_t)rows * sizeof *kv_row), "memory");
    must((int)cudaMemcpy(kv_row, host, (size_t)rows * sizeof *host, cudaMemcpyHostToDevice),
         "copy");
    free(host);
    for (int i = 0; i < SHAPES; i++)
        sum[strcmp(shapes[i].model, "sd15") == 0][shapes[i].cross] +=
            shapes[i].count * bench_shape(&shapes[i], type, rows, kv_row) / rows;
    printf("%d rows, ms a row and call: SDXL self %.3f, cross %.3f; SD 1.5 self %.3f, cross %.3f\n",
           rows, sum[0][0], sum[0][1], sum[1][0], sum[1][1]);
    must((int)cudaFree(kv_row), "cudaFree");
}

int main(int argc, char **argv)
{
    const char *precision = argc > 1 ? argv[1] : "fp16";
    const ks_dtype type = strcmp(precision, "fp32") == 0   ? KS_F32
                          : strcmp(precision, "bf16") == 0 ? KS_BF16
                                                           : KS_F16;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 2; i < argc; i++)
        bench_rows(type, atoi(argv[i]));
    if (argc <= 2) {
        bench_rows(type, 16);
        bench_rows(type, 2);
    }
    return EXIT_SUCCESS;
}
