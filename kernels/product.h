/* Products for shapes that the libraries do not take (channels that fill no 16 bytes, slices), and
 * the gathering of a convolution's patches for a product that they do take.
 *
 * stream: a cudaStream_t. Every function returns a cudaError_t of the launch. */
#ifndef KS_KERNELS_PRODUCT_H
#define KS_KERNELS_PRODUCT_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A convolution's geometry; a linear layer is kh = kw = stride = 1, pad = 0. height, width: x as
 * the kernel sees it, after upsampling. */
typedef struct ks_cuda_window {
    int kh, kw, stride, pad, height, width;
    bool upsample;
} ks_cuda_window;

/* y = activation(window(x) * w + bias + row_bias) + residual, in float32 in order of (ky, kx, in):
 * a sum never depends on where its row stands. w: compute type [y.c][kh][kw][x.c]; bias: float32,
 * or NULL. residual may be y. */
int ks_cuda_direct(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                   const float *bias, ks_cuda_window window, ks_act row_bias,
                   ks_activation activation, ks_act residual);

/* columns [count, kh * kw * x.c]: the patches of output pixels [first, first + count) of y, whose
 * data is not touched. Bound by memory: each value is read, mostly from the cache, and written. */
int ks_cuda_columns(void *stream, ks_dtype type, void *columns, ks_act y, ks_act x,
                    ks_cuda_window window, int64_t first, int64_t count);

#ifdef __cplusplus
}
#endif

#endif
