/* Group norm with SiLU and layer norm over NHWC.
 *
 * Memory-bound: the least is one read and one write of the tensor. Group norm runs in one of two
 * ways, by the row's shape alone:
 *   - resident: where some of a row's groups over all pixels fit in a block's shared memory, a
 *     block reads them once, takes the mean, then the variance about it, and writes: 1 read,
 *     1 write.
 *   - two passes: a first kernel sums tiles of pixels, a second one finishes the sums and applies
 *     them, from the end backwards, so that what was read last is still in L2: 2 reads, 1 write.
 * A lane keeps its channels for all its pixels, so that sums are made for each channel first and
 * groups of any width need no second look at the data.
 *
 * Sums of tiles are fp32 about the tile's first pixel, turned into sums about 0 in double, where
 * they stay until the mean and variance. Layer norm keeps a token in the registers of one warp.
 *
 * The floor on an H100 (3.35 TB/s by the vendor's sheet; one read and one write, fp16, 16 rows), and
 * what was reached (bench_unet_gpu --shapes, 2026-11-25):
 *
 *                                        floor       measured    share
 *   group norm + SiLU 128 x 128 x 320    0.100 ms    0.217 ms    46 %
 *   group norm + SiLU 64 x 64 x 640      0.050 ms    0.136 ms    37 %
 *   group norm + SiLU 32 x 32 x 1280     0.025 ms    0.067 ms    38 %
 *   layer norm 4096 x 640                0.050 ms    0.064 ms    79 %
 *   layer norm 1024 x 1280               0.025 ms    0.035 ms    72 %
 */
#include "norm.h"

#include <algorithm>

#include "vectors.cuh"

namespace {

enum {
    GROUP_THREADS = 512,
    RESIDENT_THREADS = 256,
    RESIDENT_SHARED = 99 * 1024, /* what a block may have on every chip from sm_80 on */
    LEAST_SEGMENT = 64,          /* bytes of a pixel that a block reads in one piece */
    TILE_BYTES = 64 * 1024,
    LARGE_TILE_BYTES = 256 * 1024,
    MOST_TILES = 64,
    MOST_LARGE_TILES = 256,
    LAYER_THREADS = 256
};

struct norm_job {
    const void *x;
    void *y;
    int64_t x_stride, y_stride;
    const float *gamma, *beta;
    int n, pixels, channels, groups;
    float eps;
    int silu;
    int tiles, tile_pixels; /* two passes */
    int slice;              /* resident: channels of a block */
    float2 *moments;        /* layer norm: instead of y, each token's mean and 1 / deviation */
    double2 *sums;          /* two passes: [row][group][tile], of x and of x * x */
};

extern __shared__ __align__(16) unsigned char shared[];

template <class T>
__device__ __forceinline__ float silu_of(float x)
{
    return __fdividef(x, 1.0f + __expf(-x));
}

template <> __device__ __forceinline__ float silu_of<float>(float x)
{
    return x / (1.0f + expf(-x));
}

template <class T, int COUNT>
__device__ __forceinline__ const typename ks_unit<T, COUNT>::raw *
unit_at(const void *x, int64_t stride, int64_t pixel, int unit)
{
    return reinterpret_cast<const typename ks_unit<T, COUNT>::raw *>(static_cast<const T *>(x) +
                                                                     pixel * stride) + unit;
}

template <class T, int COUNT>
__device__ __forceinline__ typename ks_unit<T, COUNT>::raw *unit_at(void *y, int64_t stride,
                                                                    int64_t pixel, int unit)
{
    return reinterpret_cast<typename ks_unit<T, COUNT>::raw *>(static_cast<T *>(y) +
                                                               pixel * stride) + unit;
}

/* Adds a thread's pixels to its channels' sums: of x - shift and of (x - shift)^2. */
template <class T, int COUNT>
__device__ __forceinline__ void add_unit(const typename ks_unit<T, COUNT>::raw &unit,
                                         const float (&shift)[COUNT], float (&sum)[COUNT],
                                         float (&square)[COUNT])
{
    float x[COUNT];
    ks_unit<T, COUNT>::open(x, unit);
#pragma unroll
    for (int e = 0; e < COUNT; e++) {
        const float d = x[e] - shift[e];
        sum[e] += d;
        square[e] = fmaf(d, d, square[e]);
    }
}

/* The sums of a tile's channels by lane: lane_sum, lane_square [lanes][channels]. */
template <class T, int COUNT>
__device__ __forceinline__ void sum_lanes(const norm_job &job, int64_t first, int pixels, int lanes,
                                          float *lane_sum, float *lane_square)
{
    const int units = job.channels / COUNT;
    const int lane = (int)threadIdx.x / units;
    if (lane >= lanes)
        return;
    for (int u = (int)threadIdx.x - lane * units; u < units; u += GROUP_THREADS) {
        float shift[COUNT], sum[COUNT] = {}, square[COUNT] = {};
        ks_unit<T, COUNT>::open(shift, *unit_at<T, COUNT>(job.x, job.x_stride, first, u));
        int p = lane;
        for (; p + 3 * lanes < pixels; p += 4 * lanes) {
            typename ks_unit<T, COUNT>::raw unit[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                unit[i] = *unit_at<T, COUNT>(job.x, job.x_stride, first + p + i * lanes, u);
#pragma unroll
            for (int i = 0; i < 4; i++)
                add_unit<T, COUNT>(unit[i], shift, sum, square);
        }
        for (; p < pixels; p += lanes)
            add_unit<T, COUNT>(*unit_at<T, COUNT>(job.x, job.x_stride, first + p, u), shift, sum,
                               square);
#pragma unroll
        for (int e = 0; e < COUNT; e++) {
            lane_sum[lane * job.channels + u * COUNT + e] = sum[e];
            lane_square[lane * job.channels + u * COUNT + e] = square[e];
        }
    }
}

/* How many threads share a unit of channels, each with its own pixels. */
__host__ __device__ inline int lanes_of(int units, int threads)
{
    return units < threads ? threads / units : 1;
}

/* First pass: a block sums one tile of one row. Grid: tiles, rows. */
template <class T, int COUNT>
__global__ void __launch_bounds__(GROUP_THREADS, 2)
    group_sums(const __grid_constant__ norm_job job)
{
    const int c = job.channels, lanes = lanes_of(c / COUNT, GROUP_THREADS);
    double2 *channel_sum = reinterpret_cast<double2 *>(shared);
    float *lane_sum = reinterpret_cast<float *>(channel_sum + c);
    float *lane_square = lane_sum + lanes * c;
    const int tile_first = (int)blockIdx.x * job.tile_pixels;
    const int pixels = min(job.tile_pixels, job.pixels - tile_first);
    const int64_t first = (int64_t)blockIdx.y * job.pixels + tile_first;
    sum_lanes<T, COUNT>(job, first, pixels, lanes, lane_sum, lane_square);
    __syncthreads();
    for (int k = (int)threadIdx.x; k < c; k += GROUP_THREADS) {
        float sum = 0.0f, square = 0.0f, shift[1];
        for (int l = 0; l < lanes; l++) {
            sum += lane_sum[l * c + k];
            square += lane_square[l * c + k];
        }
        ks_unit<T, 1>::open(shift, *unit_at<T, 1>(job.x, job.x_stride, first, k));
        const double s = sum, by = shift[0];
        channel_sum[k] = make_double2(s + pixels * by, square + by * (2.0 * s + pixels * by));
    }
    __syncthreads();
    const int width = c / job.groups, lane = (int)threadIdx.x % 32;
    for (int g = (int)threadIdx.x / 32; g < job.groups; g += GROUP_THREADS / 32) {
        double sum = 0.0, square = 0.0;
        for (int k = lane; k < width; k += 32) {
            sum += channel_sum[g * width + k].x;
            square += channel_sum[g * width + k].y;
        }
        for (int apart = 16; apart; apart /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, apart);
            square += __shfl_xor_sync(0xffffffffu, square, apart);
        }
        if (lane == 0)
            job.sums[((int64_t)blockIdx.y * job.groups + g) * job.tiles + blockIdx.x] =
                make_double2(sum, square);
    }
}

/* Each group's mean and 1 / sqrt(variance + eps) from the sums of a row's tiles. */
__device__ __forceinline__ void finish_sums(const norm_job &job, int row, float2 *group)
{
    const double count = (double)job.pixels * (job.channels / job.groups);
    const int lane = (int)threadIdx.x % 32;
    for (int g = (int)threadIdx.x / 32; g < job.groups; g += GROUP_THREADS / 32) {
        const double2 *tile = job.sums + ((int64_t)row * job.groups + g) * job.tiles;
        double sum = 0.0, square = 0.0;
        for (int t = lane; t < job.tiles; t += 32) {
            sum += tile[t].x;
            square += tile[t].y;
        }
        for (int apart = 16; apart; apart /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, apart);
            square += __shfl_xor_sync(0xffffffffu, square, apart);
        }
        const double mean = sum / count, variance = fmax(square / count - mean * mean, 0.0);
        if (lane == 0)
            group[g] = make_float2((float)mean, (float)(1.0 / sqrt(variance + (double)job.eps)));
    }
    __syncthreads();
}

/* What is done to a unit's channels: y = (x - mean) * scale + shift, then perhaps SiLU. The mean
 * stands alone: folded into the shift it would cost bits where the variance is small beside it. */
template <int COUNT> struct affine {
    float mean[COUNT], scale[COUNT], shift[COUNT];
};

template <int COUNT>
__device__ __forceinline__ void affine_of(affine<COUNT> &a, const norm_job &job, int channel,
                                          const float2 *group, int first_group)
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
apply_unit(const typename ks_unit<T, COUNT>::raw &unit, const affine<COUNT> &a, bool silu)
{
    float x[COUNT];
    ks_unit<T, COUNT>::open(x, unit);
#pragma unroll
    for (int e = 0; e < COUNT; e++) {
        x[e] = fmaf(x[e] - a.mean[e], a.scale[e], a.shift[e]);
        if (silu)
            x[e] = silu_of<T>(x[e]);
    }
    return ks_unit<T, COUNT>::close(x);
}

/* Second pass: tiles in the opposite order. Grid: tiles, rows. */
template <class T, int COUNT>
__global__ void __launch_bounds__(GROUP_THREADS, 2)
    group_apply(const __grid_constant__ norm_job job)
{
    const int units = job.channels / COUNT, lanes = lanes_of(units, GROUP_THREADS);
    const int row = job.n - 1 - (int)blockIdx.y;
    const int tile_first = (job.tiles - 1 - (int)blockIdx.x) * job.tile_pixels;
    const int pixels = min(job.tile_pixels, job.pixels - tile_first);
    const int64_t first = (int64_t)row * job.pixels + tile_first;
    float2 *group = reinterpret_cast<float2 *>(shared);
    finish_sums(job, row, group);
    const int lane = (int)threadIdx.x / units;
    if (lane >= lanes)
        return;
    for (int u = (int)threadIdx.x - lane * units; u < units; u += GROUP_THREADS) {
        affine<COUNT> a;
        affine_of(a, job, u * COUNT, group, 0);
        int p = lane;
        for (; p + 3 * lanes < pixels; p += 4 * lanes) {
            typename ks_unit<T, COUNT>::raw unit[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                unit[i] = *unit_at<T, COUNT>(job.x, job.x_stride, first + p + i * lanes, u);
#pragma unroll
            for (int i = 0; i < 4; i++)
                *unit_at<T, COUNT>(job.y, job.y_stride, first + p + i * lanes, u) =
                    apply_unit<T, COUNT>(unit[i], a, job.silu != 0);
        }
        for (; p < pixels; p += lanes)
            *unit_at<T, COUNT>(job.y, job.y_stride, first + p, u) = apply_unit<T, COUNT>(
                *unit_at<T, COUNT>(job.x, job.x_stride, first + p, u), a, job.silu != 0);
    }
}

/* Sums of a block's groups from the sums of its threads' channels, the same in every thread; in
 * sum[groups]. lane_sum: [lanes][slice], warp_sum: [groups][warps]. */
template <int COUNT>
__device__ __forceinline__ void sum_groups(const float (&mine)[COUNT], int lane, int lanes,
                                           int unit, int slice, int width, float *lane_sum,
                                           float *warp_sum, float *sum)
{
    constexpr int WARPS = RESIDENT_THREADS / 32;
    if (lane < lanes)
#pragma unroll
        for (int e = 0; e < COUNT; e++)
            lane_sum[lane * slice + unit * COUNT + e] = mine[e];
    __syncthreads();
    const int groups = slice / width;
    for (int g = 0; g < groups; g++) {
        float part = 0.0f;
        for (int i = (int)threadIdx.x; i < lanes * width; i += RESIDENT_THREADS) {
            const int l = i / width;
            part += lane_sum[l * slice + g * width + (i - l * width)];
        }
        for (int apart = 16; apart; apart /= 2)
            part += __shfl_xor_sync(0xffffffffu, part, apart);
        if (threadIdx.x % 32 == 0)
            warp_sum[g * WARPS + (int)threadIdx.x / 32] = part;
    }
    __syncthreads();
    for (int g = (int)threadIdx.x; g < groups; g += RESIDENT_THREADS) {
        float all = 0.0f;
        for (int w = 0; w < WARPS; w++)
            all += warp_sum[g * WARPS + w];
        sum[g] = all;
    }
    __syncthreads();
}

/* A block has all pixels of `slice` channels of one row. Grid: slices, rows. */
template <class T>
__global__ void __launch_bounds__(RESIDENT_THREADS, 2)
    group_resident(const __grid_constant__ norm_job job)
{
    constexpr int COUNT = 16 / (int)sizeof(T);
    typedef typename ks_unit<T, COUNT>::raw raw;
    const int units = job.slice / COUNT, lanes = RESIDENT_THREADS / units;
    const int lane = (int)threadIdx.x / units, unit = (int)threadIdx.x - lane * units;
    const int width = job.channels / job.groups, groups = job.slice / width;
    const int64_t first = (int64_t)blockIdx.y * job.pixels;
    const int first_unit = (int)blockIdx.x * units;
    raw *data = reinterpret_cast<raw *>(shared);
    float *lane_sum = reinterpret_cast<float *>(data + (int64_t)job.pixels * units);
    float *warp_sum = lane_sum + lanes * job.slice;
    float *sum = warp_sum + groups * (RESIDENT_THREADS / 32);
    float2 *group = reinterpret_cast<float2 *>(sum + (groups + 1) / 2 * 2);
    const int from = lane < lanes ? lane : job.pixels; /* threads left over have no pixels */

    for (int p = from; p < job.pixels; p += lanes)
        ks_cp_async16(data + p * units + unit,
                      unit_at<T, COUNT>(job.x, job.x_stride, first + p, first_unit + unit), true);
    ks_cp_async_commit();
    ks_cp_async_wait<0>(); /* each thread uses only what it has copied itself */

    float mine[COUNT] = {}, x[COUNT], mean[COUNT];
#pragma unroll 4
    for (int p = from; p < job.pixels; p += lanes) {
        ks_unit<T, COUNT>::open(x, data[p * units + unit]);
#pragma unroll
        for (int e = 0; e < COUNT; e++)
            mine[e] += x[e];
    }
    sum_groups(mine, lane, lanes, unit, job.slice, width, lane_sum, warp_sum, sum);
    const float count = (float)((double)job.pixels * width);
#pragma unroll
    for (int e = 0; e < COUNT; e++) {
        mean[e] = sum[(unit * COUNT + e) / width] / count;
        mine[e] = 0.0f;
    }
    if (threadIdx.x < (unsigned)groups)
        group[threadIdx.x].x = sum[threadIdx.x] / count;
    __syncthreads();
#pragma unroll 4
    for (int p = from; p < job.pixels; p += lanes) {
        ks_unit<T, COUNT>::open(x, data[p * units + unit]);
#pragma unroll
        for (int e = 0; e < COUNT; e++)
            mine[e] = fmaf(x[e] - mean[e], x[e] - mean[e], mine[e]);
    }
    sum_groups(mine, lane, lanes, unit, job.slice, width, lane_sum, warp_sum, sum);
    if (threadIdx.x < (unsigned)groups)
        group[threadIdx.x].y =
            (float)(1.0 / sqrt((double)(sum[threadIdx.x] / count) + (double)job.eps));
    __syncthreads();
    affine<COUNT> a;
    affine_of(a, job, (first_unit + unit) * COUNT, group, (int)blockIdx.x * groups);
#pragma unroll 4
    for (int p = from; p < job.pixels; p += lanes)
        *unit_at<T, COUNT>(job.y, job.y_stride, first + p, first_unit + unit) =
            apply_unit<T, COUNT>(data[p * units + unit], a, job.silu != 0);
}

__device__ __forceinline__ float warp_sum_of(float x)
{
    for (int apart = 16; apart; apart /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, apart);
    return x;
}

/* A warp has one token in its registers, UNITS units a lane. */
template <class T, int UNITS>
__global__ void __launch_bounds__(LAYER_THREADS, UNITS * (16 / (int)sizeof(T)) <= 40 ? 3 : 2)
    layer_resident(const __grid_constant__ norm_job job)
{
    constexpr int COUNT = 16 / (int)sizeof(T);
    typedef typename ks_unit<T, COUNT>::raw raw;
    const int64_t token =
        (int64_t)blockIdx.x * (LAYER_THREADS / 32) + (int64_t)(threadIdx.x / 32);
    const int lane = (int)threadIdx.x % 32, units = job.channels / COUNT;
    if (token >= (int64_t)job.n * job.pixels)
        return;
    raw unit[UNITS];
    float x[UNITS][COUNT], sum = 0.0f, square = 0.0f;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units)
            unit[i] = *unit_at<T, COUNT>(job.x, job.x_stride, token, lane + 32 * i);
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units) {
            ks_unit<T, COUNT>::open(x[i], unit[i]);
#pragma unroll
            for (int e = 0; e < COUNT; e++)
                sum += x[i][e];
        }
    const float mean = warp_sum_of(sum) / (float)job.channels;
#pragma unroll
    for (int i = 0; i < UNITS; i++)
        if (lane + 32 * i < units)
#pragma unroll
            for (int e = 0; e < COUNT; e++) {
                x[i][e] -= mean;
                square = fmaf(x[i][e], x[i][e], square);
            }
    const float scale = 1.0f / sqrtf(warp_sum_of(square) / (float)job.channels + job.eps);
    if (job.moments) {
        if (lane == 0)
            job.moments[token] = make_float2(mean, scale);
        return;
    }
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
            *unit_at<T, COUNT>(job.y, job.y_stride, token, lane + 32 * i) =
                ks_unit<T, COUNT>::close(x[i]);
        }
}

/* Any width and alignment: a warp reads its token three times. */
template <class T>
__global__ void __launch_bounds__(LAYER_THREADS) layer_any(const __grid_constant__ norm_job job)
{
    const int64_t token =
        (int64_t)blockIdx.x * (LAYER_THREADS / 32) + (int64_t)(threadIdx.x / 32);
    const int lane = (int)threadIdx.x % 32;
    if (token >= (int64_t)job.n * job.pixels)
        return;
    const T *x = static_cast<const T *>(job.x) + token * job.x_stride;
    T *y = static_cast<T *>(job.y) + token * job.y_stride;
    float sum = 0.0f, square = 0.0f;
    for (int k = lane; k < job.channels; k += 32)
        sum += (float)x[k];
    const float mean = warp_sum_of(sum) / (float)job.channels;
    for (int k = lane; k < job.channels; k += 32)
        square = fmaf((float)x[k] - mean, (float)x[k] - mean, square);
    const float scale = 1.0f / sqrtf(warp_sum_of(square) / (float)job.channels + job.eps);
    if (job.moments && lane == 0)
        job.moments[token] = make_float2(mean, scale);
    for (int k = lane; k < job.channels && !job.moments; k += 32)
        y[k] = T(fmaf(((float)x[k] - mean) * scale, job.gamma[k], job.beta[k]));
}

typedef void (*norm_kernel)(norm_job);

/* The kernels of one type. count: elements of a 16-byte unit. */
struct norm_kernels {
    int size;
    norm_kernel sums, sums_any, apply, apply_any, resident, layer_any;
    struct {
        int units;
        norm_kernel run;
    } layer[5]; /* by rising units a lane */
};

template <class T, int A, int B, int C, int D, int E> norm_kernels kernels_of()
{
    constexpr int COUNT = 16 / (int)sizeof(T);
    return {(int)sizeof(T),
            group_sums<T, COUNT>,
            group_sums<T, 1>,
            group_apply<T, COUNT>,
            group_apply<T, 1>,
            group_resident<T>,
            layer_any<T>,
            {{A, layer_resident<T, A>},
             {B, layer_resident<T, B>},
             {C, layer_resident<T, C>},
             {D, layer_resident<T, D>},
             {E, layer_resident<T, E>}}};
}

/* NULL for a type that is none of the three. */
const norm_kernels *kernels_for(ks_dtype type)
{
    static const norm_kernels f32 = kernels_of<float, 2, 4, 6, 10, 16>();
    static const norm_kernels f16 = kernels_of<__half, 1, 2, 3, 5, 8>();
    static const norm_kernels bf16 = kernels_of<__nv_bfloat16, 1, 2, 3, 5, 8>();
    return type == KS_F32 ? &f32 : type == KS_F16 ? &f16 : type == KS_BF16 ? &bf16 : nullptr;
}

bool on_vectors(ks_act x, int size)
{
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride * size % 16 == 0 &&
           x.c * size % 16 == 0;
}

/* Tiles that a row's pixels are summed in. */
int tiles_of(int64_t pixels, int channels)
{
    const int64_t bytes = pixels * channels * 2;
    const int64_t tiles = std::max(std::min<int64_t>(bytes / TILE_BYTES, MOST_TILES),
                                   std::min<int64_t>(bytes / LARGE_TILE_BYTES, MOST_LARGE_TILES));
    const int64_t wanted = std::max<int64_t>(1, std::min(tiles, pixels));
    const int64_t tile_pixels = (pixels + wanted - 1) / wanted;
    return (int)((pixels + tile_pixels - 1) / tile_pixels);
}

/* Shared memory of the resident kernel for a slice of so many channels. */
int64_t resident_shared(const norm_job &job, int slice, int size)
{
    const int lanes = RESIDENT_THREADS / std::max(1, slice * size / 16);
    const int groups = slice / (job.channels / job.groups);
    return (int64_t)job.pixels * slice * size +
           4 * ((int64_t)lanes * slice + groups * (RESIDENT_THREADS / 32) + (groups + 1) / 2 * 2 +
                2 * groups);
}

/* Channels of a block of the resident kernel, or 0 where no slice is whole units and fits. */
int resident_slice(const norm_job &job, int size)
{
    const int width = job.channels / job.groups;
    for (int groups = 1; groups <= job.groups; groups++) {
        const int slice = groups * width;
        if (job.groups % groups != 0 || slice * size % 16 != 0)
            continue;
        if (slice * size < LEAST_SEGMENT && groups < job.groups)
            continue;
        const bool fits = slice * size / 16 <= RESIDENT_THREADS && groups <= RESIDENT_THREADS &&
                          resident_shared(job, slice, size) <= RESIDENT_SHARED;
        return fits ? slice : 0;
    }
    return 0;
}

bool job_of(norm_job *job, ks_act y, ks_act x, const float *gamma, const float *beta, float eps)
{
    const int64_t pixels = (int64_t)x.h * x.w;
    *job = {};
    job->x = x.data, job->y = y.data, job->x_stride = x.stride, job->y_stride = y.stride;
    job->gamma = gamma, job->beta = beta, job->eps = eps;
    job->n = x.n, job->pixels = (int)pixels, job->channels = x.c;
    return x.n == y.n && x.h == y.h && x.w == y.w && x.c == y.c && x.c > 0 && x.n <= 65535 &&
           pixels < 1 << 30;
}

int group_two_passes(void *stream, norm_job job, const norm_kernels *kernels, bool vectors)
{
    const int units = vectors ? job.channels * kernels->size / 16 : job.channels;
    const size_t c = (size_t)job.channels, lanes = (size_t)lanes_of(units, GROUP_THREADS);
    job.tiles = tiles_of(job.pixels, job.channels);
    job.tile_pixels = (job.pixels + job.tiles - 1) / job.tiles;
    const dim3 grid((unsigned)job.tiles, (unsigned)job.n);
    const int failed = ks_launch(vectors ? kernels->sums : kernels->sums_any, grid, GROUP_THREADS,
                                 c * sizeof(double2) + 2 * lanes * c * sizeof(float), stream, job);
    if (failed)
        return failed;
    return ks_launch(vectors ? kernels->apply : kernels->apply_any, grid, GROUP_THREADS,
                     (size_t)job.groups * sizeof(float2), stream, job);
}

/* vectors: x, and what else there is, lie on 16-byte boundaries. */
int layer_launch(void *stream, const norm_job &job, const norm_kernels *kernels, bool vectors)
{
    const int64_t tokens = (int64_t)job.n * job.pixels;
    if (tokens == 0)
        return (int)cudaSuccess;
    norm_kernel run = kernels->layer_any;
    for (int i = 4; vectors && i >= 0; i--)
        if (kernels->layer[i].units * 32 * 16 >= job.channels * kernels->size)
            run = kernels->layer[i].run;
    const int64_t blocks = (tokens + LAYER_THREADS / 32 - 1) / (LAYER_THREADS / 32);
    if (blocks > INT_MAX)
        return (int)cudaErrorInvalidValue;
    return ks_launch(run, dim3((unsigned)blocks), LAYER_THREADS, 0, stream, job);
}

} // namespace

size_t ks_cuda_group_norm_workspace(int n, int groups, int64_t pixels, int channels)
{
    return (size_t)n * (size_t)groups * (size_t)tiles_of(pixels, channels) * sizeof(double2);
}

int ks_cuda_group_norm(void *stream, ks_dtype type, ks_act y, ks_act x, const float *gamma,
                       const float *beta, int groups, float eps, bool silu, void *workspace,
                       size_t workspace_bytes)
{
    const norm_kernels *kernels = kernels_for(type);
    norm_job job;
    if (!kernels || !job_of(&job, y, x, gamma, beta, eps) || groups <= 0 || x.c % groups != 0 ||
        workspace_bytes < ks_cuda_group_norm_workspace(x.n, groups, job.pixels, x.c))
        return (int)cudaErrorInvalidValue;
    if (x.n == 0 || job.pixels == 0)
        return (int)cudaSuccess;
    job.groups = groups, job.silu = silu;
    job.sums = static_cast<double2 *>(workspace);
    const bool vectors = on_vectors(x, kernels->size) && on_vectors(y, kernels->size);
    job.slice = vectors ? resident_slice(job, kernels->size) : 0;
    if (job.slice == 0)
        return group_two_passes(stream, job, kernels, vectors);
    return ks_launch(kernels->resident, dim3((unsigned)(x.c / job.slice), (unsigned)x.n),
                     RESIDENT_THREADS, (size_t)resident_shared(job, job.slice, kernels->size),
                     stream, job);
}

int ks_cuda_layer_norm(void *stream, ks_dtype type, ks_act y, ks_act x, const float *gamma,
                       const float *beta, float eps)
{
    const norm_kernels *kernels = kernels_for(type);
    norm_job job;
    if (!kernels || !job_of(&job, y, x, gamma, beta, eps))
        return (int)cudaErrorInvalidValue;
    const bool vectors = on_vectors(x, kernels->size) && on_vectors(y, kernels->size) &&
                         reinterpret_cast<uintptr_t>(gamma) % 16 == 0 &&
                         reinterpret_cast<uintptr_t>(beta) % 16 == 0;
    return layer_launch(stream, job, kernels, vectors);
}

int ks_cuda_layer_moments(void *stream, ks_dtype type, float *moments, ks_act x, float eps)
{
    const norm_kernels *kernels = kernels_for(type);
    norm_job job;
    if (!kernels || !job_of(&job, x, x, nullptr, nullptr, eps))
        return (int)cudaErrorInvalidValue;
    job.moments = reinterpret_cast<float2 *>(moments);
    return layer_launch(stream, job, kernels, on_vectors(x, kernels->size));
}
