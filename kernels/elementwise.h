/* Operations on single elements, and the ways between latents, plain arrays, pictures and
 * activations. All are bound by memory: one read of each input and one write, 16 bytes a thread
 * where strides and addresses allow it.
 *
 * stream: a cudaStream_t. Every function returns a cudaError_t of the launch. */
#ifndef KS_KERNELS_ELEMENTWISE_H
#define KS_KERNELS_ELEMENTWISE_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

int ks_cuda_concat(void *stream, ks_dtype type, ks_act y, ks_act a, ks_act b);
int ks_cuda_add(void *stream, ks_dtype type, ks_act y, ks_act a, ks_act b);

/* y = activation(x + bias + row_bias) + residual. bias: float32 [y.c], or NULL; row_bias [n, 1, 1,
 * c] and residual may be absent. y may be x or residual. */
int ks_cuda_finish(void *stream, ks_dtype type, ks_act y, ks_act x, const float *bias,
                   ks_act row_bias, ks_activation activation, ks_act residual);

/* y = value * gelu(gate), (value, gate) = halves of x's channels. */
int ks_cuda_gate(void *stream, ks_dtype type, ks_act y, ks_act x);

/* y [n, 2h or 2h - 1, 2w or 2w - 1, c]: nearest. */
int ks_cuda_upsample(void *stream, ks_dtype type, ks_act y, ks_act x);

int ks_cuda_timestep_embedding(void *stream, ks_dtype type, ks_act y, const float *t);
/* An id outside of the table of `count` gives NaN. */
int ks_cuda_embedding(void *stream, ks_dtype type, ks_act y, const int32_t *ids,
                      const void *tokens, int count, const void *positions);
int ks_cuda_from_latents(void *stream, ks_dtype type, ks_act y, const float *const *x,
                         const float *scale);
int ks_cuda_to_latents(void *stream, ks_dtype type, float *const *out, ks_act x);
int ks_cuda_from_floats(void *stream, ks_dtype type, ks_act y, const float *x);
int ks_cuda_to_floats(void *stream, ks_dtype type, float *out, ks_act x);
int ks_cuda_to_rgb(void *stream, ks_dtype type, uint8_t *rgb, ks_act x);

#ifdef __cplusplus
}
#endif

#endif
