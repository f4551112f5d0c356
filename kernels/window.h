/* Windows and masks of latents: plain float32 arrays, NCHW, as ops.h describes the operations. All
 * are bound by memory. stream: a cudaStream_t. Every function returns a cudaError_t. */
#ifndef KS_KERNELS_WINDOW_H
#define KS_KERNELS_WINDOW_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

int ks_cuda_crop(void *stream, float *out, const float *x, int channels, int height, int width,
                 ks_window at);
/* op->part: device. */
int ks_cuda_blend(void *stream, const ks_blend_op *op);
int ks_cuda_inpaint(void *stream, const ks_inpaint_op *op);

#ifdef __cplusplus
}
#endif

#endif
