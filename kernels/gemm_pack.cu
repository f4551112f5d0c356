/* Weights in the order that the own product reads (gemm_wgmma.cuh), and layer norms folded into
 * them. Bound by memory; once a weight. */
#include "gemm.h"

#include <limits.h>

#include "types.cuh"

namespace {

/* The layer's output that stands at a place of a packed weight: what ks_gemm_finish relies on. */
__device__ __forceinline__ int output_at(int place, int out, bool gated)
{
    const int block = place / 8 % 4, part = place % 8 / 2, odd = place % 2;
    if (gated)
        return place / 32 * 16 + part * 4 + block % 2 * 2 + odd + block / 2 * (out / 2);
    return place / 32 * 32 + part * 8 + block * 2 + odd;
}

/* A thread for 8 terms of an output. */
__global__ void pack_outputs(uint4 *to, const uint4 *from, int out, int units, bool gated)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)out * units)
        return;
    const int place = (int)(i / units), unit = (int)(i - (int64_t)place * units);
    to[i] = from[(int64_t)output_at(place, out, gated) * units + unit];
}

/* A thread for a term of an output of a phase: the sum of those lines and columns of the 3 x 3 that
 * fall on the same pixel of the picture before upsampling. At even lines that are 0 alone, then 1
 * and 2; at odd ones 0 and 1, then 2; and so with columns. */
template <class T> __global__ void sum_phases(T *to, const T *from, int out, int in)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, all = (int64_t)out * in * 16;
    if (i >= all)
        return;
    const int channel = (int)(i % in), tap = (int)(i / in % 4), phase = (int)(i / in / 4 / out);
    const int output = (int)(i / in / 4 % out);
    const int down = tap / 2 * (1 + phase / 2), right = tap % 2 * (1 + phase % 2);
    const int high = tap / 2 == phase / 2 ? 1 : 2, wide = tap % 2 == phase % 2 ? 1 : 2;
    float sum = 0.0f;
    for (int y = down; y < down + high; y++)
        for (int x = right; x < right + wide; x++)
            sum += ks::to_float(from[(((int64_t)output * 3 + y) * 3 + x) * in + channel]);
    to[i] = ks::from_float<T>(sum);
}

/* A warp for an output. */
template <class T>
__global__ void fold_norm(T *w, float *bias, float *sums, const float *gamma, const float *beta,
                          int out, int in, bool gated)
{
    const int place = (int)((blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
    if (place >= out)
        return;
    T *row = w + (int64_t)place * in;
    float shift = 0.0f, sum = 0.0f;
    for (int k = lane; k < in; k += 32) {
        const float value = ks::to_float(row[k]);
        row[k] = ks::from_float<T>(value * gamma[k]);
        shift = fmaf(value, beta[k], shift);
        sum += ks::to_float(row[k]);
    }
    for (int apart = 16; apart; apart /= 2) {
        shift += __shfl_xor_sync(0xffffffffu, shift, apart);
        sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    }
    if (lane == 0) {
        const int output = output_at(place, out, gated);
        bias[output] += shift;
        sums[output] = sum;
    }
}

} // namespace

int ks_cuda_gemm_pack(void *stream, void *to, const void *from, int out, int in, bool gated)
{
    constexpr int threads = 256;
    const int64_t units = (int64_t)out * in / 8;
    if (out % 32 != 0 || in % 8 != 0 || units > (int64_t)INT_MAX * threads)
        return (int)cudaErrorInvalidValue;
    pack_outputs<<<(unsigned)((units + threads - 1) / threads), threads, 0,
                   static_cast<cudaStream_t>(stream)>>>(static_cast<uint4 *>(to),
                                                        static_cast<const uint4 *>(from), out,
                                                        in / 8, gated);
    return (int)cudaGetLastError();
}

int ks_cuda_gemm_sum_phases(void *stream, ks_dtype type, void *to, const void *from, int out, int in)
{
    constexpr int threads = 256;
    const int64_t blocks = ((int64_t)out * in * 16 + threads - 1) / threads;
    const cudaStream_t queue = static_cast<cudaStream_t>(stream);
    if ((type != KS_F16 && type != KS_BF16) || blocks > INT_MAX)
        return (int)cudaErrorInvalidValue;
    if (type == KS_F16)
        sum_phases<<<(unsigned)blocks, threads, 0, queue>>>(
            static_cast<__half *>(to), static_cast<const __half *>(from), out, in);
    else
        sum_phases<<<(unsigned)blocks, threads, 0, queue>>>(
            static_cast<__nv_bfloat16 *>(to), static_cast<const __nv_bfloat16 *>(from), out, in);
    return (int)cudaGetLastError();
}

int ks_cuda_gemm_fold(void *stream, ks_dtype type, void *w, float *bias, float *sums,
                      const float *gamma, const float *beta, int out, int in, bool gated)
{
    constexpr int threads = 256;
    const unsigned blocks = (unsigned)((out + threads / 32 - 1) / (threads / 32));
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    if (type == KS_F16)
        fold_norm<<<blocks, threads, 0, to>>>(static_cast<__half *>(w), bias, sums, gamma, beta,
                                              out, in, gated);
    else if (type == KS_BF16)
        fold_norm<<<blocks, threads, 0, to>>>(static_cast<__nv_bfloat16 *>(w), bias, sums, gamma,
                                              beta, out, in, gated);
    else
        return (int)cudaErrorInvalidValue;
    return (int)cudaGetLastError();
}
