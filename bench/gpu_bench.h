/* What the benchmarks on a GPU share: the end of a program that cannot go on, random activations, and the median of times. */
#ifndef KS_BENCH_GPU_BENCH_H
#define KS_BENCH_GPU_BENCH_H

#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda.h"
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

#endif
