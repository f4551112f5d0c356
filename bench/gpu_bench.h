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
