/* Linear layers and convolutions on Hopper (sm_90a): y [tokens, outputs] = x [tokens, terms] w^T with
 * bias, residual, GEGLU's gate and a layer norm of x in the epilogue. A convolution's tokens are y's
 * pixels and its terms their windows, which TMA's im2col mode reads out of the pictures.
 *
 * A block stays on its multiprocessor and makes one tile of ROWS x COLUMNS after the other.
 * Warpgroup 0 only starts copies: 64 terms of x and w at a time into a ring of STAGES. Warpgroups 1
 * and 2 take the tiles in turn: while one multiplies, the other finishes and writes its last tile,
 * so that the tensor cores wait for no epilogue.
 *
 * Every sum runs over the terms in order, 16 at a time, whatever the tile: a token's bits depend on
 * neither its place nor its neighbours. Where there are too few tiles for the chip, the terms are
 * cut into equal parts whose sums are added in order by a second kernel.
 *
 * w comes with its outputs in lane order (output_at in gemm.cu): a thread's sums for 32 columns of
 * the product are then 8 neighbouring outputs, which it writes as 16 bytes, or 4 values and the 4
 * gates that belong to them.
 */
#ifndef KS_KERNELS_GEMM_WGMMA_CUH
#define KS_KERNELS_GEMM_WGMMA_CUH

#include <type_traits>

#include "gemm.h"
#include "types.cuh"
#include "vectors.cuh"
#include "wgmma.cuh"

extern __shared__ __align__(1024) unsigned char ks_shared[];

enum {
    KS_GEMM_DEPTH = 64, /* terms of a stage: 128 bytes, the width of a swizzled tile */
    KS_GEMM_USERS = 256,
    KS_GEMM_THREADS = 128 + KS_GEMM_USERS,
    KS_GEMM_MOST_STAGES = 8,
    KS_GEMM_BAND = 16, /* tiles of tokens whose columns are made before the next ones' */
    KS_GEMM_TURN = 1,  /* named barriers: 0 is __syncthreads; one a warpgroup */
    /* Launch bounds tell the launcher whether the code was built for sm_90a. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    KS_GEMM_BOUND = KS_GEMM_THREADS
#else
    KS_GEMM_BOUND = 32
#endif
};

enum ks_gemm_kind {
    KS_GEMM_PLAIN,
    KS_GEMM_GATED,  /* GEGLU */
    KS_GEMM_WINDOWS /* a convolution */
};

/* A convolution's windows. Of an upsampled picture there are four phases, one for the pixels of y at
 * even or odd lines and columns each: their windows in the small picture are 2 x 2, and tokens are
 * the small picture's pixels. */
struct ks_gemm_windows {
    int wide, pixels; /* of a picture of tokens: a line and all */
    int stride, pad, taps_wide, channels;
};

struct ks_gemm_job {
    CUtensorMap x, w;
    void *y;
    float *partial;            /* [parts][tokens][phases][columns], where there are several parts */
    const void *residual;      /* or NULL */
    const void *row_bias;      /* of each picture; or NULL */
    const float *bias, *sums;  /* or NULL */
    const float2 *moments;     /* of x's tokens: mean and 1 / deviation; NULL with sums */
    int64_t y_stride, residual_stride, row_bias_stride;
    int tokens, columns; /* of the product: GEGLU's columns are twice its outputs */
    int steps;        /* stages that a part of the terms fills */
    int down, across; /* tiles */
    int parts;
    int phases; /* 1, or 4 of an upsampled picture, whose weights follow each other in w */
    ks_gemm_windows windows;
};

template <int ROWS_, int COLUMNS_, int STAGES_> struct ks_gemm_plan {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_;
    static constexpr int BLOCKS = ROWS / 64; /* wgmma's rows are 64 */
    static constexpr int X_TILE = ROWS * 128, STAGE = X_TILE + COLUMNS * 128; /* bytes */
    static_assert(ROWS % 64 == 0 && COLUMNS % 32 == 0, "whole swizzled tiles");
    static_assert(STAGES <= (int)KS_GEMM_MOST_STAGES, "too few barriers");
    static constexpr size_t shared = STAGES * STAGE + 256;
};

struct ks_gemm_barriers {
    uint64_t full[KS_GEMM_MOST_STAGES], empty[KS_GEMM_MOST_STAGES];
};

/* Where a place of the ring is in its use: the stage, and the parity of its phase. */
struct ks_gemm_place {
    int stage;
    uint32_t parity;
};

template <int STAGES> __device__ __forceinline__ ks_gemm_place ks_gemm_place_of(int step)
{
    return {step % STAGES, (uint32_t)(step / STAGES % 2)};
}

template <int STAGES> __device__ __forceinline__ void ks_gemm_advance(ks_gemm_place &place)
{
    if (++place.stage == STAGES) {
        place.stage = 0;
        place.parity ^= 1;
    }
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* Where a tile lies. */
struct ks_gemm_tile {
    int token, column; /* the first ones */
    int part, phase;
};

/* Tiles run down a band of tokens before they go across, so that what runs at once shares its parts
 * of x and w in the L2 cache. */
template <class PLAN>
__device__ __forceinline__ ks_gemm_tile ks_gemm_tile_of(const ks_gemm_job &job, int tile)
{
    const int all_across = job.across * job.phases, part = tile / (job.down * all_across);
    tile -= part * job.down * all_across;
    const int band = tile / (KS_GEMM_BAND * all_across);
    const int left = tile - band * KS_GEMM_BAND * all_across;
    const int rows = min((int)KS_GEMM_BAND, job.down - band * KS_GEMM_BAND), across = left / rows;
    const int phase = across / job.across;
    return {(band * KS_GEMM_BAND + left - across * rows) * PLAN::ROWS,
            (across - phase * job.across) * PLAN::COLUMNS, part, phase};
}

/* Where the next stage of x lies: in a matrix, 64 columns after the other. term: its first one. */
struct ks_gemm_columns {
    int token, term;

    __device__ __forceinline__ ks_gemm_columns(const ks_gemm_job &job, const ks_gemm_tile &tile)
        : token(tile.token), term(tile.part * job.steps * KS_GEMM_DEPTH)
    {
    }

    __device__ __forceinline__ void load(void *to, const ks_gemm_job &job, uint64_t *full) const
    {
        ks_matrix_load(to, &job.x, full, term, token);
    }

    __device__ __forceinline__ void advance(const ks_gemm_job &) { term += KS_GEMM_DEPTH; }
};

/* In pictures: 64 channels after the other of one tap of the windows after the other. Channels
 * beyond the last are zeros, whatever w has in their place. */
struct ks_gemm_taps {
    int x, y, image; /* where the first token's window begins */
    int odd_x, odd_y; /* of the phase: where its window begins in that one */
    int channel, right, down, term;

    __device__ __forceinline__ ks_gemm_taps(const ks_gemm_job &job, const ks_gemm_tile &tile)
        : odd_x(tile.phase % 2), odd_y(tile.phase / 2)
    {
        const ks_gemm_windows &w = job.windows;
        const int chunks = (w.channels + KS_GEMM_DEPTH - 1) / KS_GEMM_DEPTH;
        const int step = tile.part * job.steps, tap = step / chunks;
        image = tile.token / w.pixels;
        y = (tile.token - image * w.pixels) / w.wide;
        x = (tile.token - image * w.pixels - y * w.wide) * w.stride - w.pad;
        y = y * w.stride - w.pad;
        channel = (step - tap * chunks) * KS_GEMM_DEPTH;
        down = tap / w.taps_wide;
        right = tap - down * w.taps_wide;
        term = tap * w.channels + channel;
    }

    __device__ __forceinline__ void load(void *to, const ks_gemm_job &job, uint64_t *full) const
    {
        ks_patch_load(to, &job.x, full, channel, x, y, image, right + odd_x, down + odd_y);
    }

    __device__ __forceinline__ void advance(const ks_gemm_job &job)
    {
        channel += KS_GEMM_DEPTH;
        term += KS_GEMM_DEPTH;
        if (channel < job.windows.channels)
            return;
        term -= channel - job.windows.channels;
        channel = 0;
        if (++right == job.windows.taps_wide) {
            right = 0;
            down++;
        }
    }
};

/* The copying thread. */
template <class PLAN, class SOURCE>
__device__ __forceinline__ void ks_gemm_produce(const ks_gemm_job &job, ks_gemm_barriers *barriers,
                                                unsigned char *tiles)
{
    const int all = job.parts * job.down * job.across * job.phases;
    ks_gemm_place place = {0, 0};
    for (int i = (int)blockIdx.x; i < all; i += (int)gridDim.x) {
        const ks_gemm_tile tile = ks_gemm_tile_of<PLAN>(job, i);
        const int w_row = tile.phase * job.columns + tile.column;
        SOURCE source(job, tile);
        for (int step = 0; step < job.steps; step++) {
            uint64_t *full = &barriers->full[place.stage];
            unsigned char *x = tiles + place.stage * PLAN::STAGE;
            ks_barrier_wait(&barriers->empty[place.stage], place.parity ^ 1);
            ks_barrier_expect(full, PLAN::STAGE);
            source.load(x, job, full);
            ks_matrix_load(x + PLAN::X_TILE, &job.w, full, source.term, w_row);
            source.advance(job);
            ks_gemm_advance<PLAN::STAGES>(place);
        }
    }
}

/* The token of a thread's r-th sums: row r * 8 of a block of 64, two a block. */
__device__ __forceinline__ int ks_gemm_token(int first, int r)
{
    return first + r * 8 + r / 2 * 48;
}

#endif

/* The pixel of y that is a token's. */
__device__ __forceinline__ int ks_gemm_pixel(const ks_gemm_job &job, int token, int phase)
{
    if (job.phases == 1)
        return token;
    const int line = token / job.windows.wide; /* of all pictures */
    return (2 * line + phase / 2) * 2 * job.windows.wide +
           2 * (token - line * job.windows.wide) + phase % 2;
}

/* 8 neighbouring elements of type T. */
template <class T> __device__ __forceinline__ uint4 ks_gemm_eight(const void *from, int64_t at)
{
    return *reinterpret_cast<const uint4 *>(static_cast<const T *>(from) + at);
}

template <class T> __device__ __forceinline__ void ks_gemm_add(float (&value)[8], const uint4 &more)
{
    float addend[8];
    ks_unit<T, 8>::open(addend, more);
#pragma unroll
    for (int i = 0; i < 8; i++)
        value[i] += addend[i];
}

/* A thread's 8 sums of a pixel, finished: its outputs from `output` on, rounded once. */
template <class T>
__device__ __forceinline__ void ks_gemm_write(const ks_gemm_job &job, int pixel, int output,
                                              float (&value)[8], const uint4 &residual)
{
    if (job.residual)
        ks_gemm_add<T>(value, residual);
    *reinterpret_cast<uint4 *>(static_cast<T *>(job.y) + pixel * job.y_stride + output) =
        ks_unit<T, 8>::close(value);
}

/* The same of GEGLU: 4 outputs, value * gelu(gate). */
template <class T>
__device__ __forceinline__ void ks_gemm_write_gated(const ks_gemm_job &job, int token, int output,
                                                    const float (&value)[8])
{
    float y[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        y[i] = value[i] * ks::gelu(value[4 + i]);
    *reinterpret_cast<uint2 *>(static_cast<T *>(job.y) + token * job.y_stride + output) =
        make_uint2(ks_pack<T>(y[0], y[1]), ks_pack<T>(y[2], y[3]));
}

__device__ __forceinline__ void ks_gemm_vector(float (&to)[8], const float *low, const float *high)
{
    const float4 a = __ldg(reinterpret_cast<const float4 *>(low));
    const float4 b = __ldg(reinterpret_cast<const float4 *>(high));
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* A warpgroup's sums of one tile, to y. first: the thread's first token. */
template <class T, int BLOCKS, int COLUMNS, int KIND>
__device__ __forceinline__ void ks_gemm_finish(const ks_gemm_job &job,
                                               const ks_gemm_tile &tile, int first,
                                               const float (&sum)[BLOCKS][COLUMNS / 8][4])
{
    constexpr bool GATED = KIND == KS_GEMM_GATED, WINDOWS = KIND == KS_GEMM_WINDOWS;
    const int part = (int)threadIdx.x % 4, half = GATED ? job.columns / 2 : 4;
    float2 moments[2 * BLOCKS]; /* 0 and 1 without a norm */
    int pixel[2 * BLOCKS];
#pragma unroll
    for (int r = 0; r < 2 * BLOCKS; r++) {
        const int token = ks_gemm_token(first, r);
        pixel[r] = WINDOWS ? ks_gemm_pixel(job, token, tile.phase) : token;
        moments[r] = make_float2(0.0f, 1.0f);
        if (!WINDOWS && job.moments && token < job.tokens)
            moments[r] = job.moments[token];
    }
#pragma unroll
    for (int g = 0; g < COLUMNS / 32; g++) {
        const int column = tile.column + g * 32;
        if (column >= job.columns)
            return;
        const int output = GATED ? column / 2 + part * 4 : column + part * 8;
        float bias[8] = {}, sums[8] = {};
        uint4 residual[2 * BLOCKS] = {}, shift[2 * BLOCKS] = {};
        if (job.bias)
            ks_gemm_vector(bias, job.bias + output, job.bias + output + half);
        if (WINDOWS && job.row_bias)
#pragma unroll
            for (int r = 0; r < 2 * BLOCKS; r++)
                if (ks_gemm_token(first, r) < job.tokens)
                    shift[r] = ks_gemm_eight<T>(
                        job.row_bias,
                        ks_gemm_token(first, r) / job.windows.pixels * job.row_bias_stride +
                            output);
        if (!WINDOWS && job.sums)
            ks_gemm_vector(sums, job.sums + output, job.sums + output + half);
        if (!GATED && job.residual)
#pragma unroll
            for (int r = 0; r < 2 * BLOCKS; r++)
                if (ks_gemm_token(first, r) < job.tokens)
                    residual[r] = ks_gemm_eight<T>(job.residual,
                                                   pixel[r] * job.residual_stride + output);
#pragma unroll
        for (int r = 0; r < 2 * BLOCKS; r++) {
            float value[8];
#pragma unroll
            for (int i = 0; i < 8; i++)
                value[i] = fmaf(fmaf(-moments[r].x, sums[i],
                                     sum[r / 2][g * 4 + i / 2][r % 2 * 2 + i % 2]),
                                moments[r].y, bias[i]);
            const int token = ks_gemm_token(first, r);
            if (token >= job.tokens)
                continue;
            if (WINDOWS && job.row_bias)
                ks_gemm_add<T>(value, shift[r]);
            if constexpr (GATED)
                ks_gemm_write_gated<T>(job, token, output, value);
            else
                ks_gemm_write<T>(job, pixel[r], output, value, residual[r]);
        }
    }
}

/* A warpgroup's sums of a part of one tile's terms, as they are, to the part's place. */
template <int BLOCKS, int COLUMNS>
__device__ __forceinline__ void ks_gemm_keep(const ks_gemm_job &job, const ks_gemm_tile &tile,
                                             int first,
                                             const float (&sum)[BLOCKS][COLUMNS / 8][4])
{
    const int64_t wide = (int64_t)job.phases * job.columns;
    float *place = job.partial + tile.part * job.tokens * wide + tile.phase * job.columns;
#pragma unroll
    for (int g = 0; g < COLUMNS / 32; g++) {
        const int column = tile.column + g * 32;
        if (column >= job.columns)
            return;
#pragma unroll
        for (int r = 0; r < 2 * BLOCKS; r++) {
            const int token = ks_gemm_token(first, r);
            if (token >= job.tokens)
                continue;
            float4 *to = reinterpret_cast<float4 *>(place + token * wide + column +
                                                    (int)threadIdx.x % 4 * 8);
#pragma unroll
            for (int h = 0; h < 2; h++)
                to[h] = make_float4(sum[r / 2][g * 4 + h * 2][r % 2 * 2],
                                    sum[r / 2][g * 4 + h * 2][r % 2 * 2 + 1],
                                    sum[r / 2][g * 4 + h * 2 + 1][r % 2 * 2],
                                    sum[r / 2][g * 4 + h * 2 + 1][r % 2 * 2 + 1]);
        }
    }
}

/* Starts the products of a stage. */
template <class T, int BLOCKS, int COLUMNS>
__device__ __forceinline__ void ks_gemm_multiply(float (&sum)[BLOCKS][COLUMNS / 8][4],
                                                 const unsigned char *x, const unsigned char *w,
                                                 bool add)
{
    ks_wgmma_fence();
#pragma unroll
    for (int k = 0; k < KS_GEMM_DEPTH; k += 16)
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
            ks_wgmma<T, COLUMNS>::scores(sum[b], ks_wgmma_tile(x, b * 64 * 128 + k * 2),
                                         ks_wgmma_tile(w, k * 2), k > 0 || add);
    ks_wgmma_commit();
}

/* The steps of a tile, which is the block's turn-th; on return its sums are there, and the other
 * warpgroup's products may have begun. */
template <class T, class PLAN>
__device__ __forceinline__ void ks_gemm_sum(float (&sum)[PLAN::BLOCKS][PLAN::COLUMNS / 8][4],
                                            const ks_gemm_job &job, int group, int turn, bool last,
                                            ks_gemm_barriers *barriers, const unsigned char *tiles)
{
    const bool speaks = threadIdx.x % 32 == 0; /* for its warp: a stage has been read */
    ks_gemm_place place = ks_gemm_place_of<PLAN::STAGES>(turn * job.steps);
    int before = 0;
    ks_threads_wait(KS_GEMM_TURN + group, KS_GEMM_USERS);
    for (int step = 0; step < job.steps; step++) {
        const unsigned char *x = tiles + place.stage * PLAN::STAGE;
        ks_barrier_wait(&barriers->full[place.stage], place.parity);
        ks_gemm_multiply<T, PLAN::BLOCKS, PLAN::COLUMNS>(sum, x, x + PLAN::X_TILE, step > 0);
        if (step > 0) {
            ks_wgmma_wait<1>();
            if (speaks)
                ks_barrier_arrive(&barriers->empty[before]);
        }
        before = place.stage;
        ks_gemm_advance<PLAN::STAGES>(place);
    }
    if (!last)
        ks_threads_arrive(KS_GEMM_TURN + 1 - group, KS_GEMM_USERS);
    ks_wgmma_wait<0>();
#pragma unroll
    for (int b = 0; b < PLAN::BLOCKS; b++)
        ks_wgmma_settle(sum[b]);
    if (speaks)
        ks_barrier_arrive(&barriers->empty[before]);
}

/* Warpgroup `group` of those that multiply. */
template <class T, class PLAN, int KIND>
__device__ __forceinline__ void ks_gemm_consume(const ks_gemm_job &job, int group,
                                                ks_gemm_barriers *barriers,
                                                const unsigned char *tiles)
{
    const int all = job.parts * job.down * job.across * job.phases;
    const int blocks = (int)gridDim.x, thread = (int)threadIdx.x % 128;
    int i = (int)blockIdx.x + group * blocks;
    if (group == 1) /* group 0 begins */
        ks_threads_arrive(KS_GEMM_TURN, KS_GEMM_USERS);
    for (int turn = group; i < all; turn += 2, i += 2 * blocks) {
        const ks_gemm_tile tile = ks_gemm_tile_of<PLAN>(job, i);
        const int first = tile.token + thread / 32 * 16 + thread % 32 / 4;
        float sum[PLAN::BLOCKS][PLAN::COLUMNS / 8][4];
        ks_gemm_sum<T, PLAN>(sum, job, group, turn, i + blocks >= all, barriers, tiles);
        if (KIND != KS_GEMM_GATED && job.parts > 1)
            ks_gemm_keep<PLAN::BLOCKS, PLAN::COLUMNS>(job, tile, first, sum);
        else
            ks_gemm_finish<T, PLAN::BLOCKS, PLAN::COLUMNS, KIND>(job, tile, first, sum);
    }
}

#endif

template <class T, class PLAN, int KIND>
__global__ void __launch_bounds__(KS_GEMM_BOUND, 1)
    ks_gemm_hopper(const __grid_constant__ ks_gemm_job job)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    unsigned char *tiles = ks_shared;
    ks_gemm_barriers *barriers =
        reinterpret_cast<ks_gemm_barriers *>(tiles + PLAN::STAGES * PLAN::STAGE);
    if (threadIdx.x == 0) {
        for (int s = 0; s < PLAN::STAGES; s++) {
            ks_barrier_init(&barriers->full[s], 1);
            ks_barrier_init(&barriers->empty[s], 4); /* the warps of a warpgroup */
        }
        ks_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ks_registers_lower<24>();
        if (threadIdx.x == 0)
            ks_gemm_produce<PLAN, std::conditional_t<KIND == KS_GEMM_WINDOWS, ks_gemm_taps,
                                                     ks_gemm_columns>>(job, barriers, tiles);
    } else {
        ks_registers_raise<240>();
        ks_gemm_consume<T, PLAN, KIND>(job, (int)threadIdx.x / 128 - 1, barriers, tiles);
    }
#endif
}

/* y from the parts' sums, in their order: a thread for 8 outputs of a pixel. */
template <class T> __global__ void ks_gemm_join(const __grid_constant__ ks_gemm_job job)
{
    const int wide = job.phases * job.columns, units = wide / 8;
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)job.tokens * units)
        return;
    const int token = (int)(i / units), place = (int)(i - (int64_t)token * units) * 8;
    const int phase = place / job.columns, output = place - phase * job.columns;
    const int pixel = ks_gemm_pixel(job, token, phase);
    float value[8], more[8], bias[8] = {}, sums[8] = {};
    const float *from = job.partial + i * 8;
    ks_gemm_vector(value, from, from + 4);
    for (int part = 1; part < job.parts; part++) {
        from += (int64_t)job.tokens * wide;
        ks_gemm_vector(more, from, from + 4);
#pragma unroll
        for (int k = 0; k < 8; k++)
            value[k] += more[k];
    }
    const float2 moments = job.moments ? job.moments[token] : make_float2(0.0f, 1.0f);
    if (job.bias)
        ks_gemm_vector(bias, job.bias + output, job.bias + output + 4);
    if (job.sums)
        ks_gemm_vector(sums, job.sums + output, job.sums + output + 4);
#pragma unroll
    for (int k = 0; k < 8; k++)
        value[k] = fmaf(fmaf(-moments.x, sums[k], value[k]), moments.y, bias[k]);
    if (job.row_bias)
        ks_gemm_add<T>(value, ks_gemm_eight<T>(job.row_bias, token / job.windows.pixels *
                                                                     job.row_bias_stride +
                                                                 output));
    uint4 residual = {};
    if (job.residual)
        residual = ks_gemm_eight<T>(job.residual, pixel * job.residual_stride + output);
    ks_gemm_write<T>(job, pixel, output, value, residual);
}

#endif
