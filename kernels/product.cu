#include "kernels/product.h"

#include "kernels/types.cuh"

namespace {

using namespace ks;

/* An output pixel's place: its row and the upper left corner of its window in x as the kernel sees
 * it. */
struct place {
    int row, top, left;
};

__device__ __forceinline__ place place_of(int64_t pixel, const ks_act &y, const ks_cuda_window &w)
{
    const int64_t line = pixel / y.w;
    const int column = static_cast<int>(pixel - line * y.w);
    const int row = static_cast<int>(line / y.h);
    return {row, static_cast<int>(line - static_cast<int64_t>(row) * y.h) * w.stride - w.pad,
            column * w.stride - w.pad};
}

/* The pixel of x under (ky, kx) of a window; NULL in the padding. */
template <typename T>
__device__ __forceinline__ const T *under(const ks_act &x, const ks_cuda_window &w, const place &p,
                                          int ky, int kx)
{
    const int line = p.top + ky, column = p.left + kx, shift = w.upsample ? 1 : 0;
    if (line < 0 || line >= w.height || column < 0 || column >= w.width)
        return nullptr;
    const int64_t pixel =
        (static_cast<int64_t>(p.row) * x.h + (line >> shift)) * x.w + (column >> shift);
    return static_cast<const T *>(x.data) + pixel * x.stride;
}

constexpr int tile = 64, depth = 16, threads = 256, each = 4;

struct direct_args {
    ks_act y, x, row_bias, residual;
    const void *w;
    const float *bias;
    ks_cuda_window window;
    ks_activation activation;
    int64_t pixels;
};

/* 64 pixels by 64 outputs a block, 4 by 4 a thread, 16 terms at a time through shared memory. */
template <typename T> __global__ void __launch_bounds__(threads) direct(direct_args a)
{
    __shared__ float xs[depth][tile + 4], ws[depth][tile + 4];
    const int terms = a.window.kh * a.window.kw * a.x.c;
    const int lane = threadIdx.x / each, term = (threadIdx.x % each) * each;
    const int64_t pixel = static_cast<int64_t>(blockIdx.x) * tile + lane;
    const int out = static_cast<int>(blockIdx.y) * tile + lane;
    const bool inside = pixel < a.pixels;
    const place p = place_of(inside ? pixel : 0, a.y, a.window);
    const T *w = static_cast<const T *>(a.w) + static_cast<int64_t>(out) * terms;
    const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
    float sum[each][each] = {};
    for (int k0 = 0; k0 < terms; k0 += depth) {
        for (int j = 0; j < each; j++) {
            const int k = k0 + term + j;
            float xv = 0.0f, wv = 0.0f;
            if (k < terms) {
                const int tap = k / a.x.c, ky = tap / a.window.kw;
                const T *from =
                    inside ? under<T>(a.x, a.window, p, ky, tap - ky * a.window.kw) : nullptr;
                if (from)
                    xv = to_float(from[k - tap * a.x.c]);
                if (out < a.y.c)
                    wv = to_float(w[k]);
            }
            xs[term + j][lane] = xv;
            ws[term + j][lane] = wv;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < depth; k++)
#pragma unroll
            for (int i = 0; i < each; i++)
#pragma unroll
                for (int j = 0; j < each; j++)
                    sum[i][j] += xs[k][ty * each + i] * ws[k][tx * each + j];
        __syncthreads();
    }
    const int64_t row_pixels = static_cast<int64_t>(a.y.h) * a.y.w;
    for (int i = 0; i < each; i++) {
        const int64_t at = static_cast<int64_t>(blockIdx.x) * tile + ty * each + i;
        if (at >= a.pixels)
            continue;
        for (int j = 0; j < each; j++) {
            const int k = static_cast<int>(blockIdx.y) * tile + tx * each + j;
            if (k >= a.y.c)
                continue;
            float value = sum[i][j];
            if (a.bias)
                value += a.bias[k];
            if (a.row_bias.data)
                value += to_float(static_cast<const T *>(
                    a.row_bias.data)[at / row_pixels * a.row_bias.stride + k]);
            value = activated(value, a.activation);
            if (a.residual.data)
                value +=
                    to_float(static_cast<const T *>(a.residual.data)[at * a.residual.stride + k]);
            static_cast<T *>(a.y.data)[at * a.y.stride + k] = from_float<T>(value);
        }
    }
}

struct columns_args {
    ks_act y, x;
    ks_cuda_window window;
    int64_t first;
    uint32_t count, packs; /* packs of V channels, of one tap and of all patches together */
};

template <typename T, int V> __global__ void columns(T *to, columns_args a)
{
    const uint32_t taps = static_cast<uint32_t>(a.window.kh * a.window.kw);
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < a.count;
         i += gridDim.x * blockDim.x) {
        const uint32_t patch_tap = i / a.packs;
        const int channel = static_cast<int>(i - patch_tap * a.packs) * V;
        const uint32_t patch = patch_tap / taps, tap = patch_tap - patch * taps;
        const uint32_t ky = tap / static_cast<uint32_t>(a.window.kw);
        const place p = place_of(a.first + patch, a.y, a.window);
        const T *from = under<T>(a.x, a.window, p, static_cast<int>(ky),
                                 static_cast<int>(tap - ky * a.window.kw));
        pack<T, V> value;
        if (from)
            value = load_pack<T, V>(from + channel);
        else
            for (int k = 0; k < V; k++)
                value.value[k] = from_float<T>(0.0f);
        store_pack<T, V>(to + static_cast<int64_t>(i) * V, value);
    }
}

template <typename T, int V> int launch_columns(void *stream, void *to, columns_args a, int64_t all)
{
    constexpr int64_t blocks_at_most = 1 << 20;
    if (all / V > INT32_MAX)
        return cudaErrorInvalidValue;
    a.count = static_cast<uint32_t>(all / V);
    a.packs = static_cast<uint32_t>(a.x.c / V);
    const int64_t blocks = (a.count + threads - 1) / threads;
    const unsigned grid = static_cast<unsigned>(blocks < blocks_at_most ? blocks : blocks_at_most);
    columns<T, V><<<grid, threads, 0, stream_of(stream)>>>(static_cast<T *>(to), a);
    return cudaGetLastError();
}

} // namespace

int ks_cuda_direct(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                   const float *bias, ks_cuda_window window, ks_act row_bias,
                   ks_activation activation, ks_act residual)
{
    const direct_args a = {y, x, row_bias, residual, w, bias, window, activation, pixels_of(y)};
    const dim3 grid(static_cast<unsigned>((a.pixels + tile - 1) / tile),
                    static_cast<unsigned>((y.c + tile - 1) / tile));
    if (a.pixels == 0)
        return cudaSuccess;
    return with_type(type, [&](auto zero) -> int {
        direct<decltype(zero)><<<grid, threads, 0, stream_of(stream)>>>(a);
        return cudaGetLastError();
    });
}

int ks_cuda_columns(void *stream, ks_dtype type, void *to, ks_act y, ks_act x,
                    ks_cuda_window window, int64_t first, int64_t count)
{
    const columns_args a = {y, x, window, first, 0, 0};
    const int64_t all = count * window.kh * window.kw * x.c;
    if (all == 0)
        return cudaSuccess;
    return with_type(type, [&](auto zero) -> int {
        using T = decltype(zero);
        if (packable(type, x))
            return launch_columns<T, 16 / sizeof(T)>(stream, to, a, all);
        return launch_columns<T, 1>(stream, to, a, all);
    });
}
