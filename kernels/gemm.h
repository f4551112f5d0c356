/* Linear layers and convolutions by an own product: see gemm_wgmma.cuh.
 *
 * stream: a cudaStream_t. Functions that launch return a cudaError_t. */
#ifndef KS_KERNELS_GEMM_H
#define KS_KERNELS_GEMM_H

#include "backend/ops.h"
#include "product.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether this product makes layers of so many inputs and outputs (of the product: GEGLU's are
 * twice its result's) in this type on the current device: fp16 or bf16 on sm_90a, in a multiple of
 * 8, out of 32. */
bool ks_cuda_gemm_fits(ks_dtype type, int in, int out);

/* The same of convolutions, with any padding, stride and size of picture: kernels of 3 x 3, in from
 * 64 on: with fewer channels most of a stage would be zeros. */
bool ks_cuda_gemm_fits_conv(ks_dtype type, int kh, int kw, int in, int out);

/* to [out][in] = from [out][in] in the order of outputs that ks_cuda_gemm reads. gated: from is
 * GEGLU's, values and then gates. A convolution's in is all its terms. Both of a 16-bit type. */
int ks_cuda_gemm_pack(void *stream, void *to, const void *from, int out, int in, bool gated);

/* to [4][out][2][2][in] = the four phases of a 3 x 3 convolution from [out][3][3][in] that follows a
 * nearest 2x upsampling: y's pixels at even lines and columns, at even lines and odd columns, and
 * the same at odd lines, see 2 x 2 pixels of x each, by sums of those weights, which are rounded
 * once: four ninths of the work. For ks_cuda_gemm_pack as a layer of 4 * out outputs and 4 * in
 * terms. */
int ks_cuda_gemm_sum_phases(void *stream, ks_dtype type, void *to, const void *from, int out,
                            int in);

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
    ks_act row_bias;      /* of a convolution, [n, 1, 1, out]: added to each pixel; or absent */
    ks_act residual;      /* added, y's shape, may be y; or absent, as it is when gated */
    bool gated;           /* GEGLU: y = value * gelu(gate) */
} ks_cuda_gemm_epilogue;

/* y = x w^T and then the epilogue, per token (pixel), summed in fp32 over the terms in order (in
 * some equal parts of them, which the shape alone decides) and rounded once. w: from
 * ks_cuda_gemm_pack, [out][x.c] with out = y.c, or 2 * y.c when gated. sums and bias: float32 [out]
 * in the layer's own order, 16-byte aligned. x, y, residual and row_bias lie on 16-byte boundaries
 * with strides that are multiples of 8. workspace: as many bytes as the function below says, for
 * the parts' sums. */
int ks_cuda_gemm(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                 const ks_cuda_gemm_epilogue *after, void *workspace);
size_t ks_cuda_gemm_workspace(ks_act y, int in, bool gated);

/* The same for a convolution: x's windows in the place of tokens. w: from [out][kh][kw][x.c]; terms in
 * that order. With an upsampling: kernels of 3 x 3, pad and stride 1, y's sides are twice x's, and w
 * is from ks_cuda_gemm_sum_phases. */
int ks_cuda_gemm_conv(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                      const ks_cuda_window *window, const ks_cuda_gemm_epilogue *after,
                      void *workspace);
size_t ks_cuda_gemm_conv_workspace(ks_act y, const ks_cuda_window *window, int in);

/* For measurements: how many kernels both choose from, what they are, and the same by one of them in
 * so many parts. A number of parts that does not divide the stages of 64 terms (of a tap) is an
 * error. */
int ks_cuda_gemm_kernels(void);
const char *ks_cuda_gemm_name(int kernel);
int ks_cuda_gemm_by(int kernel, int parts, void *stream, ks_dtype type, ks_act y, ks_act x,
                    const void *w, const ks_cuda_gemm_epilogue *after, void *workspace);
int ks_cuda_gemm_conv_by(int kernel, int parts, void *stream, ks_dtype type, ks_act y, ks_act x,
                         const void *w, const ks_cuda_window *window,
                         const ks_cuda_gemm_epilogue *after, void *workspace);
size_t ks_cuda_gemm_conv_workspace_by(int kernel, int parts, ks_act y, const ks_cuda_window *window,
                                      int in);

#ifdef __cplusplus
}
#endif

#endif
