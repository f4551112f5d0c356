/* Attention: which kernel runs for which type, width and chip.
 *
 * Work: 4 * n * heads * q_tokens * keys * width operations (two products); bytes: q, k, v and y
 * once.
 * The floor at 16 rows on an H100 (990 TFLOP/s dense fp16, 3.35 TB/s by the vendor's sheet), and
 * what was reached (bench_attention_gpu fp16 16, 2026-11-25):
 *
 *   tokens x keys x heads x width   bound by     floor      measured   share
 *   4096 x 4096 x 10 x 64 (SDXL)    operations   0.69 ms    1.43 ms    48 %
 *   1024 x 1024 x 20 x 64 (SDXL)    operations   0.087 ms   0.182 ms   48 %
 *   4096 x 77 x 10 x 64   (SDXL)    bytes        0.050 ms   0.073 ms   68 %
 *   4096 x 4096 x 8 x 40  (SD 1.5)  operations   0.35 ms    0.895 ms   39 %
 *   1024 x 1024 x 8 x 80  (SD 1.5)  operations   0.043 ms   0.090 ms   48 %
 *
 * At these widths the exponentials weigh as much as the products: 16 a clock and multiprocessor,
 * one for every 4 * width operations, so 64-wide heads could reach the rate of the products only
 * with both units always busy. Neither is: what is issued around them costs as much again.
 *
 *   fp32                       attention_f32.cuh       plain products
 *   half, width <= 160         attention_resident.cuh  sm_90a, up to 80 keys (160 up to a width of
 *                                                      64), not causal, 16-byte boundaries
 *   half, width <= 160         attention_wgmma.cuh     sm_90a, more than 128 keys, the same
 *                                                      boundaries
 *   half, width <= 160         attention_mma.cuh       everywhere else
 *   half, width <= 512         attention_wide.cuh
 */
#include "attention.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include <algorithm>

#include "attention_f32.cuh"
#include "attention_mma.cuh"
#include "attention_resident.cuh"
#include "attention_wgmma.cuh"
#include "attention_wide.cuh"

/* Below, the warps' roles of the Hopper kernel cost more than its products save: a block would have
 * one step to do. */
enum { LEAST_HOPPER_KEYS = 129 };

namespace {

struct mma_kernel {
    int width, queries;
    size_t shared;
    void (*half)(ks_attention_job), (*bfloat16)(ks_attention_job);
};

template <int WIDTH, int TILES, int KEYS> constexpr mma_kernel mma_row()
{
    return {WIDTH, 64 * TILES, ks_attention_mma_plan<WIDTH, TILES, KEYS>::shared,
            ks_attention_mma<__half, WIDTH, TILES, KEYS>,
            ks_attention_mma<__nv_bfloat16, WIDTH, TILES, KEYS>};
}

/* By rising width; the first that is wide enough runs. */
const mma_kernel mma_kernels[] = {
    mma_row<32, 2, 64>(), mma_row<48, 2, 64>(),  mma_row<64, 2, 64>(),  mma_row<80, 1, 64>(),
    mma_row<96, 1, 64>(), mma_row<128, 1, 64>(), mma_row<160, 1, 32>(),
};

struct hopper_kernel {
    int width, keys, groups, threads;
    size_t shared;
    void (*half)(ks_hopper_job), (*bfloat16)(ks_hopper_job);
};

template <int WIDTH, int KEYS, int STAGES, int GROUPS> constexpr hopper_kernel hopper_row()
{
    using plan = ks_hopper_plan<WIDTH, KEYS, STAGES, GROUPS>;
    static_assert(STAGES <= KS_HOPPER_MOST_STAGES, "too few barriers");
    static_assert(plan::shared <= 227 * 1024, "too much memory");
    return {WIDTH,        KEYS,
            GROUPS,       plan::THREADS,
            plan::shared, ks_attention_hopper<__half, plan>,
            ks_attention_hopper<__nv_bfloat16, plan>};
}

/* Keys and stages: as many as there are registers and shared memory for. */
const hopper_kernel hopper_kernels[] = {
    hopper_row<40, 128, 4, 4>(),  hopper_row<64, 96, 4, 4>(),  hopper_row<80, 64, 3, 4>(),
    hopper_row<128, 128, 2, 2>(), hopper_row<160, 80, 2, 2>(),
};

struct resident_kernel {
    int width, keys, blocks; /* blocks: that share a multiprocessor */
    size_t shared;
    void (*half)(ks_hopper_job), (*bfloat16)(ks_hopper_job);
};

template <int WIDTH, int KEYS, int STAGES, int BLOCKS> constexpr resident_kernel resident_row()
{
    static_assert(STAGES <= KS_RESIDENT_MOST_STAGES, "too few barriers");
    return {WIDTH, KEYS, BLOCKS, ks_resident_plan<WIDTH, KEYS, STAGES>::shared,
            ks_attention_resident<__half, WIDTH, KEYS, STAGES, BLOCKS>,
            ks_attention_resident<__nv_bfloat16, WIDTH, KEYS, STAGES, BLOCKS>};
}

const resident_kernel resident_kernels[] = {
    resident_row<40, 80, 3, 5>(),  resident_row<40, 160, 3, 3>(), resident_row<64, 80, 3, 5>(),
    resident_row<64, 160, 3, 3>(), resident_row<80, 80, 2, 3>(),  resident_row<160, 80, 2, 2>(),
};

struct f32_kernel {
    int columns;
    void (*run)(ks_attention_job);
};

const f32_kernel f32_kernels[] = {
    {48, ks_attention_f32<48>},   {64, ks_attention_f32<64>},   {80, ks_attention_f32<80>},
    {128, ks_attention_f32<128>}, {160, ks_attention_f32<160>},
};

/* The first row that is wide enough, or NULL. */
template <class Row, size_t N> const Row *wide_enough(const Row (&rows)[N], int width)
{
    for (const Row &row : rows)
        if (row.width >= width)
            return &row;
    return nullptr;
}

dim3 grid_of(const ks_attention_job &job, int queries, int slices)
{
    return dim3((unsigned)((job.q_tokens + queries - 1) / queries), (unsigned)(job.heads * slices),
                (unsigned)job.n);
}

/* A [row][token][head][channel] tensor of which 64 channels of `tokens` tokens are copied at a
 * time; a CUresult. */
int tensor_map(CUtensorMap *map, ks_dtype type, ks_act x, int heads, int tokens)
{
    const auto encode = ks_map_encoder();
    if (!encode)
        return (int)CUDA_ERROR_NOT_SUPPORTED;
    const cuuint64_t width = (cuuint64_t)(x.c / heads), pixels = (cuuint64_t)x.h * (cuuint64_t)x.w;
    const cuuint64_t size[4] = {width, (cuuint64_t)heads, pixels, (cuuint64_t)x.n};
    const cuuint64_t bytes[3] = {2 * width, 2 * (cuuint64_t)x.stride,
                                 2 * (cuuint64_t)x.stride * pixels};
    const cuuint32_t box[4] = {64, 1, (cuuint32_t)tokens, 1}, step[4] = {1, 1, 1, 1};
    return (int)encode(map,
                       type == KS_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                      : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                       4, x.data, size, bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

int run_f32(void *stream, const ks_attention_job &job)
{
    const f32_kernel *kernel = f32_kernels;
    const f32_kernel *last = f32_kernels + sizeof f32_kernels / sizeof *f32_kernels - 1;
    while (kernel < last && kernel->columns < job.width)
        kernel++;
    if (job.width > last->columns)
        kernel = last - 1; /* 512 is four slices of 128 */
    const int slices = (job.width + kernel->columns - 1) / kernel->columns;
    return ks_launch(kernel->run, grid_of(job, KS_F32_TOKENS, slices), KS_F32_THREADS,
                     ks_f32_shared(kernel->columns), stream, job);
}

int run_mma(void *stream, ks_dtype type, const ks_attention_job &job)
{
    const mma_kernel *kernel = wide_enough(mma_kernels, job.width);
    if (kernel)
        return ks_launch(type == KS_F16 ? kernel->half : kernel->bfloat16,
                         grid_of(job, kernel->queries, 1), KS_ATTENTION_THREADS, kernel->shared,
                         stream, job);
    if (job.width > 512)
        return (int)cudaErrorInvalidValue;
    const int slices = (job.width + KS_WIDE_COLUMNS - 1) / KS_WIDE_COLUMNS;
    void (*wide)(ks_attention_job) =
        type == KS_F16 ? ks_attention_wide<__half> : ks_attention_wide<__nv_bfloat16>;
    return ks_launch(wide, grid_of(job, KS_WIDE_QUERIES, slices), KS_ATTENTION_THREADS,
                     ks_wide_shared(job.width), stream, job);
}

/* The Hopper kernel for this job, or NULL where another is to run. */
const hopper_kernel *hopper_for(ks_dtype type, const ks_attention_job &job)
{
    if (!job.vectors || job.kv_tokens < LEAST_HOPPER_KEYS)
        return nullptr;
    const hopper_kernel *kernel = wide_enough(hopper_kernels, job.width);
    if (!kernel ||
        !ks_runs_here(type == KS_F16 ? kernel->half : kernel->bfloat16, kernel->threads))
        return nullptr;
    return kernel;
}

/* The same for the kernel that keeps all keys. */
const resident_kernel *resident_for(ks_dtype type, const ks_attention_job &job)
{
    if (!job.vectors || job.causal || job.kv_tokens == 0)
        return nullptr;
    for (const resident_kernel &kernel : resident_kernels)
        if (kernel.width >= job.width && kernel.keys >= job.kv_tokens)
            return ks_runs_here(type == KS_F16 ? kernel.half : kernel.bfloat16,
                                KS_RESIDENT_THREADS)
                       ? &kernel
                       : nullptr;
    return nullptr;
}

struct tensors {
    ks_act y, q, k, v;
};

/* With maps of the tensors, for blocks of so many keys; a CUresult. */
int hopper_job(ks_hopper_job *hopper, ks_dtype type, const ks_attention_job &job,
               const tensors &all, int keys)
{
    hopper->job = job;
    int failed = tensor_map(&hopper->q, type, all.q, job.heads, 64);
    if (failed == CUDA_SUCCESS)
        failed = tensor_map(&hopper->k, type, all.k, job.heads, keys);
    if (failed == CUDA_SUCCESS)
        failed = tensor_map(&hopper->v, type, all.v, job.heads, keys);
    if (failed == CUDA_SUCCESS)
        failed = tensor_map(&hopper->y, type, all.y, job.heads, 64);
    return failed;
}

/* Whole tiles for as long as each multiprocessor has one to do, and what is left in smaller parts,
 * if there are enough multiprocessors for those. False when there are too many. */
bool share_out(ks_hopper_job *hopper, const hopper_kernel *kernel, int processors)
{
    const ks_attention_job &job = hopper->job;
    const int queries = 64 * kernel->groups;
    const int64_t tiles =
        (int64_t)job.n * job.heads * ((job.q_tokens + queries - 1) / queries);
    const int64_t left = tiles % processors;
    if (tiles > INT_MAX / 4)
        return false;
    hopper->whole = (int)(tiles - left);
    hopper->parts = 1;
    while (kernel->groups % (2 * hopper->parts) == 0 && 2 * left * hopper->parts <= processors)
        hopper->parts *= 2;
    hopper->tiles = hopper->whole + (int)left * hopper->parts;
    return true;
}

/* A block a multiprocessor. A query's bits do not depend on which takes it, nor on how many others
 * its tile has. */
int run_hopper(void *stream, ks_dtype type, const hopper_kernel *kernel,
               const ks_attention_job &job, const tensors &all)
{
    const int processors = ks_multiprocessors();
    ks_hopper_job hopper = {};
    if (hopper_job(&hopper, type, job, all, kernel->keys) != CUDA_SUCCESS ||
        !share_out(&hopper, kernel, processors))
        return (int)cudaErrorInvalidValue;
    const dim3 grid((unsigned)std::min(hopper.tiles, processors));
    return ks_launch(type == KS_F16 ? kernel->half : kernel->bfloat16, grid, kernel->threads,
                     kernel->shared, stream, hopper);
}

/* As many slices of the queries as have room on the chip at once. A query's bits do not depend on
 * its slice. */
int slices_of(const ks_attention_job &job, int blocks)
{
    const int64_t tiles = (job.q_tokens + KS_RESIDENT_QUERIES - 1) / KS_RESIDENT_QUERIES;
    const int64_t room = (int64_t)ks_multiprocessors() * blocks / ((int64_t)job.heads * job.n);
    return (int)std::clamp<int64_t>(room, 1, std::min<int64_t>(tiles, 65535));
}

int run_resident(void *stream, ks_dtype type, const resident_kernel *kernel,
                 const ks_attention_job &job, const tensors &all)
{
    ks_hopper_job hopper = {};
    if (hopper_job(&hopper, type, job, all, kernel->keys) != CUDA_SUCCESS)
        return (int)cudaErrorInvalidValue;
    const dim3 grid((unsigned)job.heads, (unsigned)slices_of(job, kernel->blocks),
                    (unsigned)job.n);
    return ks_launch(type == KS_F16 ? kernel->half : kernel->bfloat16, grid, KS_RESIDENT_THREADS,
                     kernel->shared, stream, hopper);
}

/* Every head of every token starts on 16 bytes and is a whole number of them. */
bool on_vectors(ks_act x, int width)
{
    return reinterpret_cast<uintptr_t>(x.data) % 16 == 0 && x.stride % 8 == 0 && width % 8 == 0;
}

int64_t pixels_of(ks_act x)
{
    return (int64_t)x.h * x.w;
}

bool fits(ks_act y, ks_act q, ks_act k, ks_act v, int heads, const int32_t *kv_row)
{
    return heads > 0 && q.c > 0 && q.c % heads == 0 && y.c == q.c && k.c == q.c && v.c == q.c &&
           y.n == q.n && pixels_of(y) == pixels_of(q) && v.n == k.n &&
           pixels_of(v) == pixels_of(k) && pixels_of(q) <= INT_MAX / 2 &&
           pixels_of(k) <= INT_MAX / 2 && q.n <= 65535 && heads <= 16383 && (kv_row || k.n >= q.n);
}

/* All of a job but masks and rows. */
ks_attention_job job_of(ks_act y, ks_act q, ks_act k, ks_act v, int heads)
{
    const int width = q.c / heads;
    ks_attention_job job = {};
    job.q = q.data, job.k = k.data, job.v = v.data, job.y = y.data;
    job.q_stride = q.stride, job.k_stride = k.stride, job.v_stride = v.stride;
    job.y_stride = y.stride;
    job.n = q.n, job.heads = heads, job.width = width;
    job.q_tokens = (int)pixels_of(q), job.kv_tokens = (int)pixels_of(k);
    job.vectors = on_vectors(y, width) && on_vectors(q, width) && on_vectors(k, width) &&
                  on_vectors(v, width);
    job.scale = (float)(1.0 / sqrt((double)width));
    return job;
}

} // namespace

size_t ks_cuda_attention_workspace(ks_dtype, int, int, int, int, int)
{
    return 0;
}

int ks_cuda_attention_by(const char *kernel, void *stream, ks_dtype type, ks_act y, ks_act q,
                         ks_act k, ks_act v, int heads)
{
    if (!fits(y, q, k, v, heads, nullptr) || (type != KS_F16 && type != KS_BF16))
        return (int)cudaErrorInvalidValue;
    const ks_attention_job job = job_of(y, q, k, v, heads);
    const tensors all = {y, q, k, v};
    if (strcmp(kernel, "mma") == 0)
        return run_mma(stream, type, job);
    if (strcmp(kernel, "wgmma") == 0 && hopper_for(type, job))
        return run_hopper(stream, type, hopper_for(type, job), job, all);
    if (strcmp(kernel, "resident") == 0 && resident_for(type, job))
        return run_resident(stream, type, resident_for(type, job), job, all);
    return (int)cudaErrorNotSupported;
}

int ks_cuda_attention(void *stream, ks_dtype type, ks_act y, ks_act q, ks_act k, ks_act v,
                      int heads, bool causal, const int32_t *kv_row, const int32_t *kv_len,
                      void *, size_t)
{
    if (!fits(y, q, k, v, heads, kv_row) || (type != KS_F32 && type != KS_F16 && type != KS_BF16))
        return (int)cudaErrorInvalidValue;
    if (q.n == 0 || pixels_of(q) == 0)
        return (int)cudaSuccess;
    ks_attention_job job = job_of(y, q, k, v, heads);
    job.causal = causal;
    job.kv_row = kv_row, job.kv_len = kv_len;
    if (type == KS_F32)
        return run_f32(stream, job);
    const tensors all = {y, q, k, v};
    if (const resident_kernel *kernel = resident_for(type, job))
        return run_resident(stream, type, kernel, job, all);
    if (const hopper_kernel *kernel = hopper_for(type, job))
        return run_hopper(stream, type, kernel, job, all);
    return run_mma(stream, type, job);
}
