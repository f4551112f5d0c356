/* What the benchmarks on a GPU share: the end of a program that cannot go on, random activations, the median of times, and how far
 * one result is from another. */
#ifndef KS_BENCH_GPU_BENCH_H
#define KS_BENCH_GPU_BENCH_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda.h"
#include "base/file.h"
#include "kernels/parameters.h"

/* Ends the program with err's sentence unless things are good. */
static inline void need(bool good, const ks_error *err)
{
    if (good)
        return;
    fprintf(stderr, "%s\n", err->text);
    exit(EXIT_FAILURE);
}

/* The same for a cudaError_t. */
static inline void must(int failed, const char *what)
{
    if (!failed)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString((cudaError_t)failed));
    exit(EXIT_FAILURE);
}

/* [n, h, w, c] of random numbers in (-1, 1), in memory of its own: cudaFree it. */
static inline ks_act random_tensor(ks_dtype type, int n, int h, int w, int c, uint32_t seed)
{
    ks_act a = {.n = n, .h = h, .w = w, .c = c, .stride = c};
    const int64_t row = (int64_t)h * w * c;
    must((int)cudaMalloc(&a.data, (size_t)n * (size_t)row * (type == KS_F32 ? 4 : 2)), "memory");
    must(ks_cuda_random_rows(NULL, type, a.data, n, row, 0, seed), "numbers");
    return a;
}

/* Scratch of random numbers in (-1, 1). */
static inline ks_act random_act(ks_ops *ops, int n, int h, int w, int c, uint32_t seed)
{
    const ks_cuda *cuda = ks_cuda_of(ops);
    ks_act a = ops->act(ops, n, h, w, c);
    if (a.data)
        ks_cuda_random_rows(cuda->stream, cuda->type, a.data, n, (int64_t)h * w * c, 0, seed);
    return a;
}

static inline int by_time(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Sorts the times; the middle one. */
static inline float median_of(float *ms, int count)
{
    qsort(ms, (size_t)count, sizeof *ms, by_time);
    return ms[count / 2];
}

enum { GRAPH_RUNS = 15, GRAPH_CALLS = 8 };

/* Milliseconds of call(what, number, stream), which queues call `number` and gives a cudaError_t: a graph of GRAPH_CALLS of them, numbered
 * from 0, is replayed; the median of GRAPH_RUNS, for one call. */
static inline double ms_in_graph(cudaStream_t stream, int (*call)(const void *what, int number, cudaStream_t stream), const void *what)
{
    float ms[GRAPH_RUNS];
    cudaEvent_t begin, end;
    cudaGraph_t graph;
    cudaGraphExec_t calls;
    must((int)cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "graph");
    for (int i = 0; i < GRAPH_CALLS; i++)
        must(call(what, i, stream), "a call");
    must((int)cudaStreamEndCapture(stream, &graph), "graph");
    must((int)cudaGraphInstantiate(&calls, graph, 0), "graph");
    must((int)cudaGraphDestroy(graph), "graph");
    must((int)cudaEventCreate(&begin), "event");
    must((int)cudaEventCreate(&end), "event");
    for (int run = -2; run < GRAPH_RUNS; run++) {
        must((int)cudaEventRecord(begin, stream), "event");
        must((int)cudaGraphLaunch(calls, stream), "graph");
        must((int)cudaEventRecord(end, stream), "event");
        must((int)cudaEventSynchronize(end), "a call");
        if (run >= 0)
            must((int)cudaEventElapsedTime(&ms[run], begin, end), "event");
    }
    must((int)cudaEventDestroy(begin), "event");
    must((int)cudaEventDestroy(end), "event");
    must((int)cudaGraphExecDestroy(calls), "graph");
    return (double)median_of(ms, GRAPH_RUNS) / GRAPH_CALLS;
}

/* "16,2" to {16, 2, 0}: at most `room` numbers from least to most, and the 0; false for anything else. */
static inline bool read_list(const char *text, int least, int most, int *list, int room)
{
    for (int count = 0; count < room;) {
        char *end;
        long value = strtol(text, &end, 10);
        if (end == text || value < least || value > most)
            return false;
        list[count++] = (int)value;
        list[count] = 0;
        if (*end == '\0')
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
    return false;
}

/* Waits for the work; ends the program after a failure. */
static inline void settle(ks_ops *ops)
{
    ks_error err = KS_ERROR_NONE;
    need(ops->sync(ops, &err) == 0, &err);
}

/* Milliseconds between two events around some calls in a row of run(what), for one of them. */
static inline float ms_of_calls(ks_ops *ops, const cudaEvent_t between[2], bool (*run)(const void *what), const void *what)
{
    enum { CALLS = 8 };
    float ms = 0;
    cudaStream_t stream = ks_cuda_of(ops)->stream;
    cudaEventRecord(between[0], stream);
    for (int k = 0; k < CALLS; k++)
        run(what);
    cudaEventRecord(between[1], stream);
    cudaEventSynchronize(between[1]);
    cudaEventElapsedTime(&ms, between[0], between[1]);
    return ms / CALLS;
}

/* Milliseconds of run(what), which queues work and gives false when it cannot: a median; negative when it cannot. The chip's clock
 * follows the power that it uses, with a delay: some work of the same kind goes before. */
static inline double ms_of(ks_ops *ops, bool (*run)(const void *what), const void *what)
{
    enum { RUNS = 9 };
    const double before = 0.05; /* seconds */
    float ms[RUNS];
    cudaEvent_t between[2];
    if (!run(what))
        return -1;
    cudaEventCreate(&between[0]);
    cudaEventCreate(&between[1]);
    for (double start = ks_seconds(); ks_seconds() < start + before;)
        ms_of_calls(ops, between, run, what);
    for (int i = 0; i < RUNS; i++)
        ms[i] = ms_of_calls(ops, between, run, what);
    cudaEventDestroy(between[0]);
    cudaEventDestroy(between[1]);
    settle(ops);
    return (double)median_of(ms, RUNS);
}

enum { GPU_BENCH_SAMPLE = 256 };
static inline int sampled_pixels(ks_act y)
{
    const int all = y.n * y.h * y.w;
    return all < GPU_BENCH_SAMPLE ? all : GPU_BENCH_SAMPLE;
}

/* The first and the last pixels of a result, as float32; free() it. */
static inline float *sample_of(ks_ops *ops, ks_act y)
{
    ks_error err = KS_ERROR_NONE;
    const int all = y.n * y.h * y.w, some = sampled_pixels(y);
    const size_t count = (size_t)some * (size_t)y.c;
    float *host = malloc(2 * count * sizeof *host);
    float *device = ops->alloc(ops, 2 * count * sizeof *device, &err);
    need(host && device, &err);
    ks_act part = y;
    part.n = part.h = 1;
    part.w = some;
    ops->to_floats(ops, device, part);
    part.data = (char *)y.data +
                (size_t)(all - some) * (size_t)y.stride * ks_cuda_element(ks_cuda_of(ops));
    ops->to_floats(ops, device + count, part);
    ops->download(ops, host, device, 2 * count * sizeof *host);
    settle(ops);
    ops->release(ops, device);
    return host;
}

/* Relative L2 distance of run(what)'s result y from a sample of what is right; NaN where it leaves something unwritten. */
static inline double error_of(ks_ops *ops, bool (*run)(const void *what), const void *what, ks_act y, const float *right)
{
    const ks_cuda *c = ks_cuda_of(ops);
    double sum = 0, square = 0;
    cudaMemsetAsync(y.data, 0xff, (size_t)y.n * (size_t)ks_cuda_pixels(y) * (size_t)y.stride * ks_cuda_element(c), c->stream);
    run(what);
    float *got = sample_of(ops, y);
    for (size_t i = 0; i < 2 * (size_t)sampled_pixels(y) * (size_t)y.c; i++) {
        const double d = (double)got[i] - (double)right[i];
        sum += d * d;
        square += (double)right[i] * (double)right[i];
    }
    free(got);
    return sqrt(sum / square);
}

#endif
