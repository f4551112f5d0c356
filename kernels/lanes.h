/* The lanes' arithmetic on plain float32 arrays. */
#ifndef KS_KERNELS_LANES_H
#define KS_KERNELS_LANES_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Operations [first, first + count) that depend on one another: done in order, element by element.
 * n: elements of the longest. */
typedef struct ks_cuda_chain {
    int32_t first, count;
    int64_t n;
} ks_cuda_chain;

/* op and chain: device arrays. Within a chain, arrays that overlap must begin at the same address;
 * between chains none may. longest: the largest chain[].n. Bound by memory: 4 bytes a term and
 * element. */
int ks_cuda_lincomb(void *stream, const ks_lincomb_op *op, const ks_cuda_chain *chain, int chains,
                    int64_t longest);

enum { KS_CUDA_PARTS = 256 }; /* partial results of a reduction */

/* out: device, the mean that ops.h describes. parts: device [KS_CUDA_PARTS]. Summed in an order
 * that n alone decides. */
int ks_cuda_error_norm(void *stream, double *out, double *parts, const float *a, const float *b,
                       const float *c, int64_t n, double atol, double rtol);
/* out: device; 1 or 0. */
int ks_cuda_all_finite(void *stream, int32_t *out, int32_t *parts, const float *a, int64_t n);

#ifdef __cplusplus
}
#endif

#endif
