/* Random activations and parameters for tests of backends whose device memory is host memory. */
#ifndef TESTS_UNIT_BACKEND_ACTS_H
#define TESTS_UNIT_BACKEND_ACTS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/ops.h"

#define UNTOUCHED 12345.0f /* what stands between the pixels of a wider activation */

static inline uint32_t random_bits(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* About normal, standard deviation 1. */
static inline float random_value(uint32_t *state)
{
    float sum = 0.0f;
    for (int i = 0; i < 12; i++)
        sum += (float)random_bits(state) * 0x1p-24f;
    return sum - 6.0f;
}

static inline float *random_floats(int64_t n, uint32_t seed)
{
    float *v = malloc((size_t)(n > 0 ? n : 1) * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++)
        v[i] = random_value(&seed);
    return v;
}

/* [n, h, w, c], `gap` untouched floats behind every pixel; release_act it. */
static inline ks_act empty_act(ks_ops *ops, int n, int h, int w, int c, int gap)
{
    ks_act a = {.n = n, .h = h, .w = w, .c = c, .stride = c + gap};
    size_t count = (size_t)n * (size_t)h * (size_t)w * (size_t)a.stride;
    ks_error err = KS_ERROR_NONE;
    a.data = ops->alloc(ops, count * sizeof(float), &err);
    assert_non_null(a.data);
    for (size_t i = 0; i < count; i++)
        ((float *)a.data)[i] = UNTOUCHED;
    return a;
}

static inline float *pixel_of(ks_act a, int64_t pixel)
{
    return (float *)a.data + pixel * a.stride;
}

static inline int64_t all_pixels(ks_act a)
{
    return (int64_t)a.n * a.h * a.w;
}

static inline ks_act random_act(ks_ops *ops, int n, int h, int w, int c, int gap, uint32_t seed)
{
    ks_act a = empty_act(ops, n, h, w, c, gap);
    for (int64_t p = 0; p < all_pixels(a); p++)
        for (int k = 0; k < c; k++)
            pixel_of(a, p)[k] = random_value(&seed);
    return a;
}

static inline void release_act(ks_ops *ops, ks_act a)
{
    ops->release(ops, a.data);
}

static inline void gaps_are_untouched(ks_act a)
{
    for (int64_t p = 0; p < all_pixels(a); p++)
        for (int64_t k = a.c; k < a.stride; k++)
            assert_true(pixel_of(a, p)[k] == UNTOUCHED);
}

/* Value (i, y, x, k), 0 outside the picture. */
static inline double value_at(ks_act a, int i, int y, int x, int k)
{
    if (y < 0 || y >= a.h || x < 0 || x >= a.w)
        return 0.0;
    return (double)pixel_of(a, ((int64_t)i * a.h + y) * a.w + x)[k];
}

static inline ks_view view_of(const void *data, int rank, int64_t a, int64_t b, int64_t c,
                              int64_t d)
{
    return (ks_view){.data = data, .dtype = KS_F32, .rank = rank, .shape = {a, b, c, d}};
}

/* Weight [out, in, k, k] (rank 2 for k == 0) and bias [out], and their values; free_param it. */
typedef struct param {
    ks_weight *weight;
    float *w, *bias;
    int out, in, kernel;
} param;

static inline param random_param(ks_ops *ops, int out, int in, int kernel, bool bias, uint32_t seed)
{
    int k = kernel ? kernel : 1;
    param p = {.out = out, .in = in, .kernel = k};
    p.w = random_floats((int64_t)out * in * k * k, seed);
    p.bias = bias ? random_floats(out, seed + 1) : NULL;
    ks_view w = view_of(p.w, kernel ? 4 : 2, out, in, k, k), b = view_of(p.bias, 1, out, 0, 0, 0);
    ks_error err = KS_ERROR_NONE;
    p.weight = ops->weight(ops, kernel ? KS_USE_CONV : KS_USE_LINEAR, 1, &w, bias ? &b : NULL, &err);
    assert_non_null(p.weight);
    return p;
}

static inline void free_param(ks_ops *ops, param p)
{
    ops->weight_free(ops, p.weight);
    free(p.w);
    free(p.bias);
}

/* Scale w [c] and shift bias [c] of a norm. */
static inline param random_norm(ks_ops *ops, int c, uint32_t seed)
{
    param p = {.out = c, .in = c, .kernel = 1};
    p.w = random_floats(c, seed);
    p.bias = random_floats(c, seed + 1);
    ks_view gamma = view_of(p.w, 1, c, 0, 0, 0), beta = view_of(p.bias, 1, c, 0, 0, 0);
    ks_error err = KS_ERROR_NONE;
    p.weight = ops->norm_weight(ops, &gamma, &beta, &err);
    assert_non_null(p.weight);
    return p;
}

static inline void no_failure(ks_ops *ops)
{
    ks_error err = KS_ERROR_NONE;
    if (ops->sync(ops, &err) != 0)
        fail_msg("%s", err.text);
}

static inline ks_ops *new_cpu(int threads)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = ks_ops_cpu(threads, &err);
    if (!ops)
        fail_msg("%s", err.text);
    return ops;
}

#endif
