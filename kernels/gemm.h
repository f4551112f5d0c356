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

/* Puts a layer norm of x, x' = (x - mean) / deviation * gamma + beta, into a packed weight and its
 * bias: w' = w gamma, bias += w beta, and sums[o] = the sum of row o of w', all of the layer's own
 * order of outputs but w. Then x' w^T + bias = (x w'^T - mean sums) / deviation + bias. gamma, beta:
 * float32 [in]; bias, sums: float32 [out]. */
int ks_cuda_gemm_fold(void *stream, ks_dtype type, void *w, float *bias, float *sums,
                      const float *gamma, const float *beta, int out, int in, bool gated);

/* What follows the sums s of a token's output o. */
typedef struct ks_cuda_gemm_epilogue {
    const float *moments; /* of x's tokens, from ks_cuda_layer_moments, for a folded norm: s becomes */
    const float *sums;    /* (s - mean sums[o]) / deviation; or both NULL */
    const float *bias;    /* added; or NULL */
    ks_act residual;      /* added, y's shape, may be y; or absent, as it is when gated */
    bool gated;           /* GEGLU: y = value * gelu(gate) */
} ks_cuda_gemm_epilogue;

/* y = x w^T and then the epilogue, per token (pixel), summed in fp32 over the terms in order and
 * rounded once. w: from ks_cuda_gemm_pack, [out][x.c] with out = y.c, or 2 * y.c when gated. sums
 * and bias: float32 [out] in the layer's own order, 16-byte aligned. x, y and residual lie on
 * 16-byte boundaries with strides that are multiples of 8. */
int ks_cuda_gemm(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                 const ks_cuda_gemm_epilogue *after);

/* For measurements: how many kernels ks_cuda_gemm chooses from, and the same by one of them. name:
 * what it is, static. */
int ks_cuda_gemm_kernels(void);
int ks_cuda_gemm_by(int kernel, const char **name, void *stream, ks_dtype type, ks_act y, ks_act x,
                    const void *w, const ks_cuda_gemm_epilogue *after);

#ifdef __cplusplus
}
#endif

#endif
