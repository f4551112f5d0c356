/* Group norm with SiLU and layer norm over NHWC.
 *
 * Memory-bound: the least is one read and one write of the tensor; the 15 instructions of an
 * element, two of them for SiLU in the special function unit, take half as long on an H100. Group
 * norm runs in the first of three ways that a row's shape and the chip allow:
 *   - clusters (norm_cluster.cuh; sm_90, fp16 and bf16): a row's groups over all pixels lie in the
 *     shared memory of up to 16 blocks: 1 read, 1 write.
 *   - blocks: where some of a row's groups over all pixels fit in one block's shared memory, a
 *     block reads them once, takes the mean, then the variance about it, and writes: 1 read,
 *     1 write.
 *   - two passes: a first kernel sums tiles of pixels, a second one finishes the sums and applies
 *     them, from the end backwards, so that what was read last is still in L2: 2 reads, 1 write.
 * A lane keeps its channels for all its pixels, so that sums are made for each channel first and
 * groups of any width need no second look at the data.
 *
 * In two passes, sums of tiles are fp32 about the tile's first pixel, turned into sums about 0 in
 * double, where they stay until the mean and variance. Layer norm keeps a token in the registers of
 * one warp.
 *
 * The floor on an H100 (3.35 TB/s by the vendor's sheet; one read and one write, moments one read;
 * fp16, 16 rows), and what was reached (bench_norm_gpu, layer norm by bench_unet_gpu --shapes;
 * 2026-11-25):
 *
 *                                                   floor       measured    share
 *   group norm + SiLU 128 x 128 x 320, two passes   0.100 ms    0.200 ms    50 %
 *   group norm + SiLU 64 x 64 x 640, clusters       0.050 ms    0.076 ms    66 %
 *   group norm + SiLU 32 x 32 x 1280, clusters      0.025 ms    0.042 ms    60 %
 *   layer norm 4096 x 640                           0.050 ms    0.064 ms    79 %
 *   layer norm 1024 x 1280                          0.025 ms    0.035 ms    72 %
 *   moments 4096 x 640                              0.025 ms    0.031 ms    81 %
 *   moments 1024 x 1280                             0.013 ms    0.017 ms    74 %
 */
#include "norm.h"

#include <algorithm>

#include "norm_cluster.cuh"
#include "norm_layer.cuh"

namespace {

enum {
    GROUP_THREADS = 512,
    RESIDENT_THREADS = 256,
    RESIDENT_SHARED = 99 * 1024, /* what a block may have on every chip from sm_80 on */
    LEAST_SEGMENT = 64,          /* bytes of a pixel that a block reads in one piece */
    TILE_BYTES = 64 * 1024,
    LARGE_TILE_BYTES = 256 * 1024,
    MOST_TILES = 64,
    MOST_LARGE_TILES = 256
};

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
__device__ __forceinline__ void sum_lanes(const ks_norm_job &job, int64_t first, int pixels,
                                          int lanes, float *lane_sum, float *lane_square)
{
    const int units = job.channels / COUNT;
    const int lane = (int)threadIdx.x / units;
    if (lane >= lanes)
        return;
    for (int u = (int)threadIdx.x - lane * units; u < units; u += GROUP_THREADS) {
        float shift[COUNT], sum[COUNT] = {}, square[COUNT] = {};
        ks_unit<T, COUNT>::open(shift, *ks_norm_unit<T, COUNT>(job.x, job.x_stride, first, u));
        int p = lane;
        for (; p + 3 * lanes < pixels; p += 4 * lanes) {
            typename ks_unit<T, COUNT>::raw unit[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                unit[i] = *ks_norm_unit<T, COUNT>(job.x, job.x_stride, first + p + i * lanes, u);
#pragma unroll
            for (int i = 0; i < 4; i++)
                add_unit<T, COUNT>(unit[i], shift, sum, square);
        }
        for (; p < pixels; p += lanes)
            add_unit<T, COUNT>(*ks_norm_unit<T, COUNT>(job.x, job.x_stride, first + p, u), shift,
                               sum, square);
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
    group_sums(const __grid_constant__ ks_norm_job job)
{
    const int c = job.channels, lanes = lanes_of(c / COUNT, GROUP_THREADS);
    double2 *channel_sum = reinterpret_cast<double2 *>(ks_shared);
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
        ks_unit<T, 1>::open(shift, *ks_norm_unit<T, 1>(job.x, job.x_stride, first, k));
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
__device__ __forceinline__ void finish_sums(const ks_norm_job &job, int row, float2 *group)
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

/* Second pass: tiles in the opposite order. Grid: tiles, rows. */
template <class T, int COUNT>
__global__ void __launch_bounds__(GROUP_THREADS, 2)
    group_apply(const __grid_constant__ ks_norm_job job)
{
    const int units = job.channels / COUNT, lanes = lanes_of(units, GROUP_THREADS);
    const int row = job.n - 1 - (int)blockIdx.y;
    const int tile_first = (job.tiles - 1 - (int)blockIdx.x) * job.tile_pixels;
    const int pixels = min(job.tile_pixels, job.pixels - tile_first);
    const int64_t first = (int64_t)row * job.pixels + tile_first;
    float2 *group = reinterpret_cast<float2 *>(ks_shared);
    finish_sums(job, row, group);
    const int lane = (int)threadIdx.x / units;
    if (lane >= lanes)
        return;
    for (int u = (int)threadIdx.x - lane * units; u < units; u += GROUP_THREADS) {
        ks_norm_affine<COUNT> a;
        ks_norm_affine_of(a, job, u * COUNT, group, 0);
        int p = lane;
        for (; p + 3 * lanes < pixels; p += 4 * lanes) {
            typename ks_unit<T, COUNT>::raw unit[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                unit[i] = *ks_norm_unit<T, COUNT>(job.x, job.x_stride, first + p + i * lanes, u);
#pragma unroll
            for (int i = 0; i < 4; i++)
                *ks_norm_unit<T, COUNT>(job.y, job.y_stride, first + p + i * lanes, u) =
                    ks_norm_apply<T, COUNT>(unit[i], a, job.silu != 0);
        }
        for (; p < pixels; p += lanes)
            *ks_norm_unit<T, COUNT>(job.y, job.y_stride, first + p, u) = ks_norm_apply<T, COUNT>(
                *ks_norm_unit<T, COUNT>(job.x, job.x_stride, first + p, u), a, job.silu != 0);
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
    group_resident(const __grid_constant__ ks_norm_job job)
{
    constexpr int COUNT = 16 / (int)sizeof(T);
    typedef typename ks_unit<T, COUNT>::raw raw;
    const int units = job.slice / COUNT, lanes = RESIDENT_THREADS / units;
    const int lane = (int)threadIdx.x / units, unit = (int)threadIdx.x - lane * units;
    const int width = job.channels / job.groups, groups = job.slice / width;
    const int64_t first = (int64_t)blockIdx.y * job.pixels;
    const int first_unit = (int)blockIdx.x * units;
    raw *data = reinterpret_cast<raw *>(ks_shared);
    float *lane_sum = reinterpret_cast<float *>(data + (int64_t)job.pixels * units);
    float *warp_sum = lane_sum + lanes * job.slice;
    float *sum = warp_sum + groups * (RESIDENT_THREADS / 32);
    float2 *group = reinterpret_cast<float2 *>(sum + (groups + 1) / 2 * 2);
    const int from = lane < lanes ? lane : job.pixels; /* threads left over have no pixels */

    for (int p = from; p < job.pixels; p += lanes)
        ks_cp_async16(data + p * units + unit,
                      ks_norm_unit<T, COUNT>(job.x, job.x_stride, first + p, first_unit + unit),
                      true);
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
    ks_norm_affine<COUNT> a;
    ks_norm_affine_of(a, job, (first_unit + unit) * COUNT, group, (int)blockIdx.x * groups);
#pragma unroll 4
    for (int p = from; p < job.pixels; p += lanes)
        *ks_norm_unit<T, COUNT>(job.y, job.y_stride, first + p, first_unit + unit) =
            ks_norm_apply<T, COUNT>(data[p * units + unit], a, job.silu != 0);
}

/* Layer norm's kernels for tokens of up to so many units a lane. */
struct layer_kernels {
    int units;
    ks_norm_kernel run, moments;
};

template <class T, int UNITS> constexpr layer_kernels layer_of()
{
    return {UNITS, ks_layer_resident<T, UNITS>, ks_layer_moments<T, UNITS>};
}

/* The kernels of one type, the layers' by rising units. */
struct norm_kernels {
    int size;
    ks_norm_kernel sums, sums_any, apply, apply_any, resident, layer_any;
    layer_kernels layer[5];
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
            ks_layer_any<T>,
            {layer_of<T, A>(), layer_of<T, B>(), layer_of<T, C>(), layer_of<T, D>(),
             layer_of<T, E>()}};
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
int64_t resident_shared(const ks_norm_job &job, int slice, int size)
{
    const int lanes = RESIDENT_THREADS / std::max(1, slice * size / 16);
    const int groups = slice / (job.channels / job.groups);
    return (int64_t)job.pixels * slice * size +
           4 * ((int64_t)lanes * slice + groups * (RESIDENT_THREADS / 32) + (groups + 1) / 2 * 2 +
                2 * groups);
}

/* Channels of a block of the resident kernel, or 0 where no slice is whole units and fits. */
int resident_slice(const ks_norm_job &job, int size)
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

bool job_of(ks_norm_job *job, ks_act y, ks_act x, const float *gamma, const float *beta, float eps)
{
    const int64_t pixels = (int64_t)x.h * x.w;
    *job = {};
    job->x = x.data, job->y = y.data, job->x_stride = x.stride, job->y_stride = y.stride;
    job->gamma = gamma, job->beta = beta, job->eps = eps;
    job->n = x.n, job->pixels = (int)pixels, job->channels = x.c;
    return x.n == y.n && x.h == y.h && x.w == y.w && x.c == y.c && x.c > 0 && x.n <= 65535 &&
           pixels < 1 << 30;
}

bool group_job_of(ks_norm_job *job, ks_dtype type, ks_act y, ks_act x, const float *gamma,
                  const float *beta, int groups, float eps, bool silu)
{
    if (!kernels_for(type) || !job_of(job, y, x, gamma, beta, eps) || groups <= 0 ||
        x.c % groups != 0)
        return false;
    job->groups = groups, job->silu = silu;
    return true;
}

bool both_on_vectors(ks_act y, ks_act x, ks_dtype type)
{
    const int size = kernels_for(type)->size;
    return on_vectors(x, size) && on_vectors(y, size);
}

int by_two_passes(void *stream, ks_norm_job job, ks_dtype type, bool vectors)
{
    const norm_kernels *kernels = kernels_for(type);
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

/* Whether clusters can be tried; the chip says the rest at the launch. */
bool suits_clusters(const ks_norm_job &job, ks_dtype type, bool vectors)
{
    return vectors && (type == KS_F16 || type == KS_BF16) &&
           reinterpret_cast<uintptr_t>(job.gamma) % 16 == 0 &&
           reinterpret_cast<uintptr_t>(job.beta) % 16 == 0;
}

int by_clusters(void *stream, ks_norm_job job, ks_dtype type, bool vectors)
{
    const ks_norm_cluster_kernel *kernel =
        suits_clusters(job, type, vectors) ? ks_norm_cluster_plan(&job) : nullptr;
    return kernel ? ks_norm_cluster_launch(stream, job, *kernel, type)
                  : (int)cudaErrorNotSupported;
}

int by_blocks(void *stream, ks_norm_job job, ks_dtype type, bool vectors)
{
    const norm_kernels *kernels = kernels_for(type);
    job.slice = vectors ? resident_slice(job, kernels->size) : 0;
    if (job.slice == 0)
        return (int)cudaErrorNotSupported;
    return ks_launch(kernels->resident, dim3((unsigned)(job.channels / job.slice), (unsigned)job.n),
                     RESIDENT_THREADS, (size_t)resident_shared(job, job.slice, kernels->size),
                     stream, job);
}

/* The ways, best first; cudaErrorNotSupported: not this row, or not on this chip. */
int (*const ways[KS_CUDA_NORM_WAYS])(void *stream, ks_norm_job job, ks_dtype type, bool vectors) = {
    by_clusters, by_blocks, by_two_passes};

/* The kernels for tokens in registers; NULL where they are too wide. */
const layer_kernels *layer_for(const norm_kernels *kernels, int channels)
{
    for (const layer_kernels &layer : kernels->layer)
        if (layer.units * 32 * 16 >= channels * kernels->size)
            return &layer;
    return nullptr;
}

/* A warp for every token. */
int layer_launch(void *stream, const ks_norm_job &job, ks_norm_kernel kernel)
{
    const int64_t tokens = (int64_t)job.n * job.pixels, some = KS_LAYER_THREADS / 32;
    const int64_t blocks = (tokens + some - 1) / some;
    if (tokens == 0)
        return (int)cudaSuccess;
    if (blocks > INT_MAX)
        return (int)cudaErrorInvalidValue;
    return ks_launch(kernel, dim3((unsigned)blocks), KS_LAYER_THREADS, 0, stream, job);
}

} // namespace

size_t ks_cuda_group_norm_workspace(int n, int groups, int64_t pixels, int channels)
{
    return (size_t)n * (size_t)groups * (size_t)tiles_of(pixels, channels) * sizeof(double2);
}

int ks_cuda_group_norm_by(ks_cuda_norm_way way, void *stream, ks_dtype type, ks_act y, ks_act x,
                          const float *gamma, const float *beta, int groups, float eps, bool silu,
                          void *workspace, size_t workspace_bytes)
{
    ks_norm_job job;
    if (!group_job_of(&job, type, y, x, gamma, beta, groups, eps, silu) ||
        workspace_bytes < ks_cuda_group_norm_workspace(x.n, groups, job.pixels, x.c))
        return (int)cudaErrorInvalidValue;
    if (x.n == 0 || job.pixels == 0)
        return (int)cudaSuccess;
    job.sums = static_cast<double2 *>(workspace);
    return ways[way](stream, job, type, both_on_vectors(y, x, type));
}

int ks_cuda_group_norm(void *stream, ks_dtype type, ks_act y, ks_act x, const float *gamma,
                       const float *beta, int groups, float eps, bool silu, void *workspace,
                       size_t workspace_bytes)
{
    int failed = (int)cudaErrorNotSupported;
    for (int way = 0; way < KS_CUDA_NORM_WAYS && failed == (int)cudaErrorNotSupported; way++)
        failed = ks_cuda_group_norm_by((ks_cuda_norm_way)way, stream, type, y, x, gamma, beta,
                                       groups, eps, silu, workspace, workspace_bytes);
    return failed;
}

int ks_cuda_group_norm_cluster(ks_dtype type, ks_act x, int groups)
{
    ks_norm_job job;
    if (!group_job_of(&job, type, x, x, nullptr, nullptr, groups, 0.0f, false) ||
        !suits_clusters(job, type, both_on_vectors(x, x, type)))
        return 0;
    return ks_norm_cluster_plan(&job) ? job.ranks : 0;
}

int ks_cuda_layer_norm(void *stream, ks_dtype type, ks_act y, ks_act x, const float *gamma,
                       const float *beta, float eps)
{
    const norm_kernels *kernels = kernels_for(type);
    ks_norm_job job;
    if (!kernels || !job_of(&job, y, x, gamma, beta, eps))
        return (int)cudaErrorInvalidValue;
    const bool vectors = on_vectors(x, kernels->size) && on_vectors(y, kernels->size) &&
                         reinterpret_cast<uintptr_t>(gamma) % 16 == 0 &&
                         reinterpret_cast<uintptr_t>(beta) % 16 == 0;
    const layer_kernels *layer = vectors ? layer_for(kernels, x.c) : nullptr;
    return layer_launch(stream, job, layer ? layer->run : kernels->layer_any);
}

int ks_cuda_layer_moments(void *stream, ks_dtype type, float *moments, ks_act x, float eps)
{
    const norm_kernels *kernels = kernels_for(type);
    ks_norm_job job;
    if (!kernels || !job_of(&job, x, x, nullptr, nullptr, eps))
        return (int)cudaErrorInvalidValue;
    job.moments = reinterpret_cast<float2 *>(moments);
    const layer_kernels *layer =
        on_vectors(x, kernels->size) ? layer_for(kernels, x.c) : nullptr;
    return layer_launch(stream, job, layer ? layer->moments : kernels->layer_any);
}
