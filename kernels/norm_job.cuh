/* What the norms' kernels share: the job, a thread's channels of a pixel, and what is done to them.
 */
#ifndef KS_KERNELS_NORM_JOB_CUH
#define KS_KERNELS_NORM_JOB_CUH

#include "vectors.cuh"

struct ks_norm_job {
    const void *x;
    void *y;
    int64_t x_stride, y_stride;
    const float *gamma, *beta;
    int n, pixels, channels, groups;
    float eps;
    int silu;
    int tiles, tile_pixels; /* two passes */
    int slice;              /* resident: channels of a block; clusters: of a cluster */
    int ranks, piece;       /* clusters: blocks of one, and the pixels that each has */
    float2 *moments;        /* layer norm: instead of y, each token's mean and 1 / deviation */
    double2 *sums;          /* two passes: [row][group][tile], of x and of x * x */
};

typedef void (*ks_norm_kernel)(ks_norm_job);

extern __shared__ __align__(16) unsigned char ks_shared[];

/* In two-byte types without the steps that numbers below 2^-126 would take. */
template <class T> __device__ __forceinline__ float ks_silu(float x)
{
    return x * ks_reciprocal(1.0f + ks_exp2(-1.44269504f * x));
}

template <> __device__ __forceinline__ float ks_silu<float>(float x)
{
    return x / (1.0f + expf(-x));
}

template <class T, int COUNT>
__device__ __forceinline__ const typename ks_unit<T, COUNT>::raw *
ks_norm_unit(const void *x, int64_t stride, int64_t pixel, int unit)
{
    return reinterpret_cast<const typename ks_unit<T, COUNT>::raw *>(static_cast<const T *>(x) +
                                                                     pixel * stride) + unit;
}

template <class T, int COUNT>
__device__ __forceinline__ typename ks_unit<T, COUNT>::raw *
ks_norm_unit(void *y, int64_t stride, int64_t pixel, int unit)
{
    return reinterpret_cast<typename ks_unit<T, COUNT>::raw *>(static_cast<T *>(y) +
                                                               pixel * stride) + unit;
}

/* What is done to a unit's channels: y = (x - mean) * scale + shift, then perhaps SiLU. The mean
 * stands alone: folded into the shift it would cost bits where the variance is small beside it. */
template <int COUNT> struct ks_norm_affine {
    float mean[COUNT], scale[COUNT], shift[COUNT];
};

template <int COUNT>
__device__ __forceinline__ void ks_norm_affine_of(ks_norm_affine<COUNT> &a, const ks_norm_job &job,
                                                  int channel, const float2 *group,
                                                  int first_group)
{
    const int width = job.channels / job.groups;
#pragma unroll
    for (int e = 0; e < COUNT; e++) {
        const float2 g = group[(channel + e) / width - first_group];
        a.mean[e] = g.x;
        a.scale[e] = g.y * job.gamma[channel + e];
        a.shift[e] = job.beta[channel + e];
    }
}

template <class T, int COUNT>
__device__ __forceinline__ typename ks_unit<T, COUNT>::raw
ks_norm_apply(const typename ks_unit<T, COUNT>::raw &unit, const ks_norm_affine<COUNT> &a,
              bool silu)
{
    float x[COUNT];
    ks_unit<T, COUNT>::open(x, unit);
#pragma unroll
    for (int e = 0; e < COUNT; e++)
        x[e] = fmaf(x[e] - a.mean[e], a.scale[e], a.shift[e]);
    if (silu)
#pragma unroll
        for (int e = 0; e < COUNT; e++)
            x[e] = ks_silu<T>(x[e]);
    return ks_unit<T, COUNT>::close(x);
}

__device__ __forceinline__ float ks_warp_sum(float x)
{
    for (int apart = 16; apart; apart /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

#endif
