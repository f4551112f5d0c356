/* The loops over floats, compiled once for each instruction set that the binary may meet and chosen
 * at run time.
 *
 * Every loop walks its elements in one order and treats a last part shorter than a vector with the
 * same instructions as the rest, so an element's bits depend on its values alone and a sum's bits
 * on the length alone: never on alignment, on what is beside it, or on how a caller cuts
 * its work. */
#ifndef KS_BACKEND_CPU_VECTOR_H
#define KS_BACKEND_CPU_VECTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/ops.h"

typedef struct ks_vector {
    const char *name; /* the instruction set */
    bool (*usable)(void);

    /* Largest value; -inf for n == 0. */
    float (*max)(const float *x, int64_t n);
    /* x = exp(x - shift); returns the sum. exp is right to 1e-7 relative for arguments in [-87,
     * 88], clamped there. */
    float (*exp_sum)(float *x, int64_t n, float shift);
    void (*scale)(float *x, int64_t n, float factor);
    void (*add)(float *y, const float *a, const float *b, int64_t n);
    void (*activate)(float *y, const float *x, int64_t n, ks_activation activation);
    /* y = value * gelu(gate), the exact (erf) gelu: its normal distribution function is right to
     * 8e-8. */
    void (*geglu)(float *y, const float *value, const float *gate, int64_t n);
    /* y = x * scale + shift, then SiLU where asked; over one pixel's channels. */
    void (*affine)(float *y, const float *x, const float *scale, const float *shift, int64_t n,
                   bool silu);
    /* Adds every channel's sum and sum of squares over pixels to sum[c] and square[c]. */
    void (*moments)(double *sum, double *square, const float *x, int64_t stride, int64_t pixels,
                    int c);
    void (*layer_norm)(float *y, const float *x, const float *gamma, const float *beta, int c,
                       float eps);
    /* y[n] = bias[n] + sum over k of x[k] * w[k * ld + n], k ascending. bias: NULL for zeros. */
    void (*vector_matrix)(float *y, const float *x, const float *w, int64_t ld, const float *bias,
                          int64_t k, int64_t n);
    /* Elements [first, first + n) of a linear combination. */
    void (*lincomb)(const ks_lincomb_op *op, int64_t first, int64_t n);
    double (*error_sum)(const float *a, const float *b, const float *c, int64_t n, double atol,
                        double rtol);
    bool (*all_finite)(const float *x, int64_t n);
} ks_vector;

/* The tables that the CPU can run, best first: number 0 always exists, NULL behind the last. */
const ks_vector *ks_vector_table(int number);

#endif
