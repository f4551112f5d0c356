/* Linear layers by an own product: see gemm_wgmma.cuh.
 *
 * stream: a cudaStream_t. Functions that launch return a cudaError_t. */
#ifndef KS_KERNELS_GEMM_H
#define KS_KERNELS_GEMM_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether this product makes layers of so many inputs and outputs (of the product: GEGLU's are
 * twice its result's) in this type on the current device: fp16 or bf16 on sm_90a, in a multiple of
 * 8, out of 32. */
bool ks_cuda_gemm_fits(ks_dtype type, int in, int out);

/* to [out][in] = from [out][in] in the order of outputs that ks_cuda_gemm reads. gated: from is
 * GEGLU's, values and then gates. Both of a 16-bit type. */
int ks_cuda_gemm_pack(void *stream, void *to, const void *from, int out, int in, bool gated);

/* y = x w^T + bias + residual, or with gated y = value * gelu(gate), all per token (pixel), summed
 * in fp32 over the terms in order and rounded once. w: from ks_cuda_gemm_pack, [out][x.c] with out
 * = y.c, or 2 * y.c when gated. bias: float32 [out] in the layer's own order, 16-byte aligned, or
 * NULL. residual: absent, or y's shape, may be y; absent when gated. x, y and residual lie on
 * 16-byte boundaries with strides that are multiples of 8. */
int ks_cuda_gemm(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w, const float *bias,
                 bool gated, ks_act residual);

/* For measurements: how many kernels ks_cuda_gemm chooses from, and the same by one of them. name:
 * what it is, static. */
int ks_cuda_gemm_kernels(void);
int ks_cuda_gemm_by(int kernel, const char **name, void *stream, ks_dtype type, ks_act y, ks_act x,
                    const void *w, const float *bias, bool gated, ks_act residual);

#ifdef __cplusplus
}
#endif

#endif
