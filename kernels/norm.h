/* Group norm (Wu and He 2018, arXiv 1803.08494) with an optional SiLU, and layer norm (Ba et al.
 * 2016, arXiv 1607.06450), on an NVIDIA GPU, with the meaning of ks_ops. Calls queue on a stream
 * and return a cudaError_t. A row's bits depend on neither its place nor its neighbours. */
#ifndef KS_KERNELS_NORM_H
#define KS_KERNELS_NORM_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of workspace that ks_cuda_group_norm needs, whatever the type. */
size_t ks_cuda_group_norm_workspace(int n, int groups, int64_t pixels, int channels);

/* y = silu((x - mean) / sqrt(variance + eps) * gamma + beta) over each row's pixels and the
 * c / groups channels of a group; silu only if asked for. gamma, beta: device [c]. y may be x.
 * workspace: at least the above, 16-byte aligned, its contents do not matter. */
int ks_cuda_group_norm(void *stream, ks_dtype type, ks_act y, ks_act x, const float *gamma,
                       const float *beta, int groups, float eps, bool silu, void *workspace,
                       size_t workspace_bytes);

/* The ways to compute it; the first that a row fits, on this chip, is taken. */
typedef enum ks_cuda_norm_way {
    KS_CUDA_NORM_CLUSTERS, /* on sm_90, fp16 and bf16: a row's slice in the blocks of a cluster */
    KS_CUDA_NORM_BLOCKS,   /* a row's slice in one block */
    KS_CUDA_NORM_PASSES,   /* x is read twice */
    KS_CUDA_NORM_WAYS
} ks_cuda_norm_way;

/* The same by one way, for measurements. cudaErrorNotSupported: it cannot do it. */
int ks_cuda_group_norm_by(ks_cuda_norm_way way, void *stream, ks_dtype type, ks_act y, ks_act x,
                          const float *gamma, const float *beta, int groups, float eps, bool silu,
                          void *workspace, size_t workspace_bytes);

/* Blocks of the clusters that x takes where the chip has clusters; 0: none. */
int ks_cuda_group_norm_cluster(ks_dtype type, ks_act x, int groups);

/* Group norm's formula over each token's channels, without SiLU. y may be x. */
int ks_cuda_layer_norm(void *stream, ks_dtype type, ks_act y, ks_act x, const float *gamma,
                       const float *beta, float eps);

/* moments: device [tokens][2], each token's mean and 1 / sqrt(variance + eps). */
int ks_cuda_layer_moments(void *stream, ks_dtype type, float *moments, ks_act x, float eps);

#ifdef __cplusplus
}
#endif

#endif
