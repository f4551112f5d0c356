/* Layer norm: a warp keeps whole tokens in its registers, takes the mean, then the variance about
 * it. */
#ifndef KS_KERNELS_NORM_LAYER_CUH
#define KS_KERNELS_NORM_LAYER_CUH

#include "norm_job.cuh"

enum { KS_LAYER_THREADS = 256 };

/* A warp has one token in its registers, UNITS units a lane. */
template <class T, int UNITS>
__global__ void __launch_bounds__(KS_LAYER_THREADS, UNITS * (16 / (int)sizeof(T)) <= 40 ? 3 : 2)
    ks_layer_resident(const __grid_constant__ ks_norm_job job)
{
    constexpr int COUNT = 16 / (int)sizeof(T);
    typedef typename ks_unit<T, COUNT>::raw raw;
    const int64_t token =
        (int64_t)blockIdx.x * (KS_LAYER_THREADS / 32) + (int64_t)(threadIdx.x / 32);
    const int lane = (int)threadIdx.x % 32, units = job.channels / COUNT;
    if (token >= (int64_t)job.n * job.pixels)
        return;
    raw unit[UNITS];
    float x[UNITS][COUNT], sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units)
            unit[i] = *ks_norm_unit<T, COUNT>(job.x, job.x_stride, token, lane + 32 * i);
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units) {
            ks_unit<T, COUNT>::open(x[i], unit[i]);
#pragma unroll
            for (int e = 0; e < COUNT; e++)
                sum += x[i][e];
        }
    const float mean = ks_warp_sum(sum) / (float)job.channels;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units)
#pragma unroll
            for (int e = 0; e < COUNT; e++) {
                x[i][e] -= mean;
                square = fmaf(x[i][e], x[i][e], square);
            }
    const float scale = 1.0f / sqrtf(ks_warp_sum(square) / (float)job.channels + job.eps);
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units) {
            const int channel = (lane + 32 * i) * COUNT;
#pragma unroll
            for (int e = 0; e < COUNT; e += 4) {
                const float4 gamma = *reinterpret_cast<const float4 *>(job.gamma + channel + e);
                const float4 beta = *reinterpret_cast<const float4 *>(job.beta + channel + e);
                x[i][e] = fmaf(x[i][e] * scale, gamma.x, beta.x);
                x[i][e + 1] = fmaf(x[i][e + 1] * scale, gamma.y, beta.y);
                x[i][e + 2] = fmaf(x[i][e + 2] * scale, gamma.z, beta.z);
                x[i][e + 3] = fmaf(x[i][e + 3] * scale, gamma.w, beta.w);
            }
            *ks_norm_unit<T, COUNT>(job.y, job.y_stride, token, lane + 32 * i) =
                ks_unit<T, COUNT>::close(x[i]);
        }
}

/* Moments alone: tokens stay as they came, so that more of them are on their way. The last tokens
 * come first: they were written last and may still be in L2, and so will be the first ones, which
 * the product that asks for this reads next. */
template <class T, int UNITS>
__global__ void __launch_bounds__(KS_LAYER_THREADS)
    ks_layer_moments(const __grid_constant__ ks_norm_job job)
{
    constexpr int COUNT = 16 / (int)sizeof(T);
    const int64_t block = gridDim.x - 1 - blockIdx.x;
    const int64_t token = block * (KS_LAYER_THREADS / 32) + (int64_t)(threadIdx.x / 32);
    const int lane = (int)threadIdx.x % 32, units = job.channels / COUNT;
    if (token >= (int64_t)job.n * job.pixels)
        return;
    typename ks_unit<T, COUNT>::raw unit[UNITS];
    float x[COUNT], sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units)
            unit[i] = *ks_norm_unit<T, COUNT>(job.x, job.x_stride, token, lane + 32 * i);
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units) {
            ks_unit<T, COUNT>::open(x, unit[i]);
#pragma unroll
            for (int e = 0; e < COUNT; e++)
                sum += x[e];
        }
    const float mean = ks_warp_sum(sum) / (float)job.channels;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units) {
            ks_unit<T, COUNT>::open(x, unit[i]);
#pragma unroll
            for (int e = 0; e < COUNT; e++)
                square = fmaf(x[e] - mean, x[e] - mean, square);
        }
    square = ks_warp_sum(square);
    if (lane == 0)
        job.moments[token] =
            make_float2(mean, 1.0f / sqrtf(square / (float)job.channels + job.eps));
}

/* Any width and alignment: a warp reads its token three times. */
template <class T>
__global__ void __launch_bounds__(KS_LAYER_THREADS)
    ks_layer_any(const __grid_constant__ ks_norm_job job)
{
    const int64_t token =
        (int64_t)blockIdx.x * (KS_LAYER_THREADS / 32) + (int64_t)(threadIdx.x / 32);
    const int lane = (int)threadIdx.x % 32;
    if (token >= (int64_t)job.n * job.pixels)
        return;
    const T *x = static_cast<const T *>(job.x) + token * job.x_stride;
    T *y = static_cast<T *>(job.y) + token * job.y_stride;
    float sum = 0.0f, square = 0.0f;
    for (int k = lane; k < job.channels; k += 32)
        sum += (float)x[k];
    const float mean = ks_warp_sum(sum) / (float)job.channels;
    for (int k = lane; k < job.channels; k += 32)
        square = fmaf((float)x[k] - mean, (float)x[k] - mean, square);
    const float scale = 1.0f / sqrtf(ks_warp_sum(square) / (float)job.channels + job.eps);
    if (job.moments && lane == 0)
        job.moments[token] = make_float2(mean, scale);
    for (int k = lane; k < job.channels && !job.moments; k += 32)
        y[k] = T(fmaf(((float)x[k] - mean) * scale, job.gamma[k], job.beta[k]));
}

#endif
