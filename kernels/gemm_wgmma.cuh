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
    KS_GEMM_TURN = 1,  /* named barriers: 0 is __syncthreads; one a warpgroup, */
    KS_GEMM_NOTES = 3, /* and here, too */
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
    int stride, pad, taps_wide, taps, channels;
};

struct ks_gemm_job {
    CUtensorMap x, w;
    void *y;
    float4 *partial;           /* of each part's tiles, where there are several parts */
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

/* What GEGLU's epilogue reads over and over: of its tokens, and of its columns of the product, values before gates. */
template <int ROWS, int COLUMNS> struct ks_gemm_notes {
    float bias[COLUMNS], sums[COLUMNS];
    float2 moments[ROWS];
};

/* What lies behind the ring in shared memory. */
template <int ROWS, int COLUMNS> struct ks_gemm_desk {
    uint64_t full[KS_GEMM_MOST_STAGES], empty[KS_GEMM_MOST_STAGES];
    ks_gemm_notes<ROWS, COLUMNS> notes[2]; /* one a warpgroup that multiplies */
};

template <int ROWS_, int COLUMNS_, int STAGES_> struct ks_gemm_plan {
    static constexpr int ROWS = ROWS_, COLUMNS = COLUMNS_, STAGES = STAGES_;
    static constexpr int BLOCKS = ROWS / 64; /* wgmma's rows are 64 */
    static constexpr int X_TILE = ROWS * 128, STAGE = X_TILE + COLUMNS * 128; /* bytes */
    static_assert(ROWS % 64 == 0 && COLUMNS % 32 == 0, "whole swizzled tiles");
    static_assert(STAGES <= (int)KS_GEMM_MOST_STAGES, "too few barriers");
    using desk = ks_gemm_desk<ROWS, COLUMNS>;
    using notes = ks_gemm_notes<ROWS, COLUMNS>;
    static constexpr size_t shared = STAGES * STAGE + sizeof(desk);
    static_assert(shared <= 227 * 1024, "more than a block has");
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

/* In pictures: of 64 channels after the other all taps of the windows, so that pixels that several
 * windows see are read again at once. Channels beyond the last are zeros, whatever w has there. */
struct ks_gemm_taps {
    int x, y, image; /* where the first token's window begins */
    int odd_x, odd_y; /* of the phase: where its window begins in that one */
    int channel, right, down, term;

    __device__ __forceinline__ ks_gemm_taps(const ks_gemm_job &job, const ks_gemm_tile &tile)
        : odd_x(tile.phase % 2), odd_y(tile.phase / 2)
    {
        const ks_gemm_windows &w = job.windows;
        const int step = tile.part * job.steps, chunk = step / w.taps, tap = step - chunk * w.taps;
        image = tile.token / w.pixels;
        y = (tile.token - image * w.pixels) / w.wide;
        x = (tile.token - image * w.pixels - y * w.wide) * w.stride - w.pad;
        y = y * w.stride - w.pad;
        channel = chunk * KS_GEMM_DEPTH;
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
        const ks_gemm_windows &w = job.windows;
        term += w.channels;
        if (++right < w.taps_wide)
            return;
        right = 0;
        if (++down * w.taps_wide < w.taps)
            return;
        down = 0;
        channel += KS_GEMM_DEPTH;
        term = channel;
    }
};

/* The copying thread. */
template <class PLAN, class SOURCE>
__device__ __forceinline__ void ks_gemm_produce(const ks_gemm_job &job,
                                                typename PLAN::desk *desk, unsigned char *tiles)
{
    const int all = job.parts * job.down * job.across * job.phases;
    ks_gemm_place place = {0, 0};
    for (int i = (int)blockIdx.x; i < all; i += (int)gridDim.x) {
        const ks_gemm_tile tile = ks_gemm_tile_of<PLAN>(job, i);
        const int w_row = tile.phase * job.columns + tile.column;
        SOURCE source(job, tile);
        for (int step = 0; step < job.steps; step++) {
            uint64_t *full = &desk->full[place.stage];
            unsigned char *x = tiles + place.stage * PLAN::STAGE;
            ks_barrier_wait(&desk->empty[place.stage], place.parity ^ 1);
            ks_barrier_expect(full, PLAN::STAGE);
            source.load(x, job, full);
            ks_matrix_load(x + PLAN::X_TILE, &job.w, full, source.term, w_row);
            source.advance(job);
            ks_gemm_advance<PLAN::STAGES>(place);
        }
    }
}

/* The token of the first of a thread's sums; of a warpgroup. */
__device__ __forceinline__ int ks_gemm_first(const ks_gemm_tile &tile, int thread)
{
    return tile.token + thread / 32 * 16 + thread % 32 / 4;
}

/* The token of a thread's r-th sums: row r * 8 of a block of 64, two a block. */
__device__ __forceinline__ int ks_gemm_token(int first, int r)
{
    return first + r * 8 + r / 2 * 48;
}

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

__device__ __forceinline__ void ks_gemm_vector(float (&to)[8], const float *low, const float *high)
{
    const float4 a = __ldg(reinterpret_cast<const float4 *>(low));
    const float4 b = __ldg(reinterpret_cast<const float4 *>(high));
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

/* A warpgroup's sums of one tile, to y, but for GEGLU's. first: the thread's first token. */
template <class T, int BLOCKS, int COLUMNS, int KIND>
__device__ __forceinline__ void ks_gemm_finish(const ks_gemm_job &job,
                                               const ks_gemm_tile &tile, int first,
                                               const float (&sum)[BLOCKS][COLUMNS / 8][4])
{
    constexpr bool WINDOWS = KIND == KS_GEMM_WINDOWS;
    const int part = (int)threadIdx.x % 4;
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
        const int output = column + part * 8;
        float bias[8] = {}, sums[8] = {};
        uint4 residual[2 * BLOCKS] = {}, shift[2 * BLOCKS] = {};
        if (job.bias)
            ks_gemm_vector(bias, job.bias + output, job.bias + output + 4);
        if (WINDOWS && job.row_bias)
#pragma unroll
            for (int r = 0; r < 2 * BLOCKS; r++)
                if (ks_gemm_token(first, r) < job.tokens)
                    shift[r] = ks_gemm_eight<T>(
                        job.row_bias,
                        ks_gemm_token(first, r) / job.windows.pixels * job.row_bias_stride +
                            output);
        if (!WINDOWS && job.sums)
            ks_gemm_vector(sums, job.sums + output, job.sums + output + 4);
        if (job.residual)
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
            ks_gemm_write<T>(job, pixel[r], output, value, residual[r]);
        }
    }
}

/* Where a thread's r-th sums of the g-th 32 columns of tile i lie among those of the parts: a half of
 * them, and the other half 128 behind. */
template <class PLAN>
__device__ __forceinline__ int64_t ks_gemm_kept(int64_t i, int g, int r, int thread)
{
    return (((i * (PLAN::COLUMNS / 32) + g) * (2 * PLAN::BLOCKS) + r) * 2) * 128 + thread;
}

/* A thread's share of the notes of one of GEGLU's tiles: on its way while the tile is multiplied. */
template <class PLAN> struct ks_gemm_fetched {
    static constexpr int COLUMNS = (PLAN::COLUMNS + 127) / 128, ROWS = (PLAN::ROWS + 127) / 128;
    static constexpr int HALF = PLAN::COLUMNS / 2;
    float bias[COLUMNS], sums[COLUMNS];
    float2 moments[ROWS]; /* 0 and 1 without a norm */

    __device__ __forceinline__ void fetch(const ks_gemm_job &job, const ks_gemm_tile &tile, int thread)
    {
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            const int k = i * 128 + thread, value = tile.column / 2 + k % HALF;
            const bool there = k < PLAN::COLUMNS && 2 * value < job.columns;
            const int output = value + k / HALF * (job.columns / 2);
            bias[i] = there && job.bias ? __ldg(job.bias + output) : 0.0f;
            sums[i] = there && job.sums ? __ldg(job.sums + output) : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int token = tile.token + i * 128 + thread;
            moments[i] = job.moments && token < job.tokens ? __ldg(job.moments + token) : make_float2(0.0f, 1.0f);
        }
    }

    __device__ __forceinline__ void put(typename PLAN::notes *notes, int thread) const
    {
#pragma unroll
        for (int i = 0; i < COLUMNS; i++)
            if (i * 128 + thread < PLAN::COLUMNS) {
                notes->bias[i * 128 + thread] = bias[i];
                notes->sums[i * 128 + thread] = sums[i];
            }
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (i * 128 + thread < PLAN::ROWS)
                notes->moments[i * 128 + thread] = moments[i];
    }
};

/* 4 values and the 4 gates that belong to them, out of shared memory. */
__device__ __forceinline__ void ks_gemm_pair(float (&to)[8], const float *values, const float *gates)
{
    const float4 a = *reinterpret_cast<const float4 *>(values);
    const float4 b = *reinterpret_cast<const float4 *>(gates);
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
    to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

/* A warpgroup's sums of one of GEGLU's tiles: value * gelu(gate) to y. row: the thread's first token within the tile. */
template <class T, class PLAN>
__device__ __forceinline__ void ks_gemm_gate(const ks_gemm_job &job, const ks_gemm_tile &tile, int row,
                                             const typename PLAN::notes &notes,
                                             const float (&sum)[PLAN::BLOCKS][PLAN::COLUMNS / 8][4])
{
    constexpr int TOKENS = 2 * PLAN::BLOCKS;
    const int part = (int)threadIdx.x % 4 * 4;
    T *y[TOKENS]; /* the thread's first outputs of its tokens */
#pragma unroll
    for (int r = 0; r < TOKENS; r++)
        y[r] = static_cast<T *>(job.y) + ks_gemm_token(tile.token + row, r) * job.y_stride + tile.column / 2 + part;
#pragma unroll
    for (int g = 0; g < PLAN::COLUMNS / 32; g++) {
        if (tile.column + g * 32 >= job.columns)
            return;
        float bias[8], sums[8];
        const int value = g * 16 + part, gate = PLAN::COLUMNS / 2 + value;
        ks_gemm_pair(bias, notes.bias + value, notes.bias + gate);
        ks_gemm_pair(sums, notes.sums + value, notes.sums + gate);
#pragma unroll
        for (int r = 0; r < TOKENS; r++) {
            const float2 moments = notes.moments[ks_gemm_token(row, r)];
            float s[8], out[4];
#pragma unroll
            for (int i = 0; i < 8; i++)
                s[i] = fmaf(fmaf(-moments.x, sums[i], sum[r / 2][g * 4 + i / 2][r % 2 * 2 + i % 2]), moments.y, bias[i]);
#pragma unroll
            for (int i = 0; i < 4; i++)
                out[i] = s[i] * ks::gelu_short(s[4 + i]);
            if (ks_gemm_token(tile.token + row, r) < job.tokens)
                *reinterpret_cast<uint2 *>(y[r] + g * 16) = make_uint2(ks_pack<T>(out[0], out[1]), ks_pack<T>(out[2], out[3]));
        }
    }
}

/* A warpgroup's sums of a part of the terms of tile i, as they are. */
template <class PLAN>
__device__ __forceinline__ void
ks_gemm_keep(const ks_gemm_job &job, int i,
             const float (&sum)[PLAN::BLOCKS][PLAN::COLUMNS / 8][4])
{
#pragma unroll
    for (int g = 0; g < PLAN::COLUMNS / 32; g++)
#pragma unroll
        for (int r = 0; r < 2 * PLAN::BLOCKS; r++) {
            float4 *to = job.partial + ks_gemm_kept<PLAN>(i, g, r, (int)threadIdx.x % 128);
#pragma unroll
            for (int h = 0; h < 2; h++)
                to[h * 128] = make_float4(sum[r / 2][g * 4 + h * 2][r % 2 * 2],
                                          sum[r / 2][g * 4 + h * 2][r % 2 * 2 + 1],
                                          sum[r / 2][g * 4 + h * 2 + 1][r % 2 * 2],
                                          sum[r / 2][g * 4 + h * 2 + 1][r % 2 * 2 + 1]);
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
                                            typename PLAN::desk *desk, const unsigned char *tiles)
{
    const bool speaks = threadIdx.x % 32 == 0; /* for its warp: a stage has been read */
    ks_gemm_place place = ks_gemm_place_of<PLAN::STAGES>(turn * job.steps);
    int before = 0;
    ks_threads_wait(KS_GEMM_TURN + group, KS_GEMM_USERS);
    for (int step = 0; step < job.steps; step++) {
        const unsigned char *x = tiles + place.stage * PLAN::STAGE;
        ks_barrier_wait(&desk->full[place.stage], place.parity);
        ks_gemm_multiply<T, PLAN::BLOCKS, PLAN::COLUMNS>(sum, x, x + PLAN::X_TILE, step > 0);
        if (step > 0) {
            ks_wgmma_wait<1>();
            if (speaks)
                ks_barrier_arrive(&desk->empty[before]);
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
        ks_barrier_arrive(&desk->empty[before]);
}

/* Warpgroup `group` of those that multiply. */
template <class T, class PLAN, int KIND>
__device__ __forceinline__ void ks_gemm_consume(const ks_gemm_job &job, int group,
                                                typename PLAN::desk *desk,
                                                const unsigned char *tiles)
{
    const int all = job.parts * job.down * job.across * job.phases;
    const int blocks = (int)gridDim.x, thread = (int)threadIdx.x % 128;
    int i = (int)blockIdx.x + group * blocks;
    if (group == 1) /* group 0 begins */
        ks_threads_arrive(KS_GEMM_TURN, KS_GEMM_USERS);
    for (int turn = group; i < all; turn += 2, i += 2 * blocks) {
        const ks_gemm_tile tile = ks_gemm_tile_of<PLAN>(job, i);
        const int first = ks_gemm_first(tile, thread);
        float sum[PLAN::BLOCKS][PLAN::COLUMNS / 8][4];
        ks_gemm_fetched<PLAN> fetched;
        if (KIND == KS_GEMM_GATED)
            fetched.fetch(job, tile, thread);
        ks_gemm_sum<T, PLAN>(sum, job, group, turn, i + blocks >= all, desk, tiles);
        if constexpr (KIND == KS_GEMM_GATED) {
            /* The notes of the tile before are done with: all have met at the beginning of this one's products. */
            fetched.put(&desk->notes[group], thread);
            ks_threads_wait(KS_GEMM_NOTES + group, 128);
            ks_gemm_gate<T, PLAN>(job, tile, first - tile.token, desk->notes[group], sum);
        } else if (job.parts > 1) {
            ks_gemm_keep<PLAN>(job, i, sum);
        } else {
            ks_gemm_finish<T, PLAN::BLOCKS, PLAN::COLUMNS, KIND>(job, tile, first, sum);
        }
    }
}

template <class T, class PLAN, int KIND>
__global__ void __launch_bounds__(KS_GEMM_BOUND, 1)
    ks_gemm_hopper(const __grid_constant__ ks_gemm_job job)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    unsigned char *tiles = ks_shared;
    typename PLAN::desk *desk =
        reinterpret_cast<typename PLAN::desk *>(tiles + PLAN::STAGES * PLAN::STAGE);
    if (threadIdx.x == 0) {
        for (int s = 0; s < PLAN::STAGES; s++) {
            ks_barrier_init(&desk->full[s], 1);
            ks_barrier_init(&desk->empty[s], 4); /* the warps of a warpgroup */
        }
        ks_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ks_registers_lower<24>();
        if (threadIdx.x == 0)
            ks_gemm_produce<PLAN, std::conditional_t<KIND == KS_GEMM_WINDOWS, ks_gemm_taps,
                                                     ks_gemm_columns>>(job, desk, tiles);
    } else {
        ks_registers_raise<240>();
        ks_gemm_consume<T, PLAN, KIND>(job, (int)threadIdx.x / 128 - 1, desk, tiles);
    }
#endif
}

/* y from the parts' sums, in their order: a thread for 8 outputs of a pixel, as they were kept. */
template <class T, class PLAN>
__global__ void ks_gemm_join(const __grid_constant__ ks_gemm_job job)
{
    constexpr int groups = PLAN::COLUMNS / 32, rows = 2 * PLAN::BLOCKS;
    const int place = (int)blockIdx.x, thread = (int)threadIdx.x; /* a block for a g and an r */
    const int r = place % rows, g = place / rows % groups, i = place / rows / groups;
    const ks_gemm_tile tile = ks_gemm_tile_of<PLAN>(job, i);
    const int token = ks_gemm_token(ks_gemm_first(tile, thread), r);
    const int output = tile.column + g * 32 + thread % 4 * 8;
    if (token >= job.tokens || output >= job.columns)
        return;
    const int64_t tiles = (int64_t)job.down * job.across * job.phases;
    const int pixel = ks_gemm_pixel(job, token, tile.phase);
    float value[8] = {}, bias[8] = {}, sums[8] = {};
    for (int part = 0; part < job.parts; part++) {
        const float4 *from = job.partial + ks_gemm_kept<PLAN>(part * tiles + i, g, r, thread);
        const float4 low = __ldg(from), high = __ldg(from + 128);
        value[0] += low.x, value[1] += low.y, value[2] += low.z, value[3] += low.w;
        value[4] += high.x, value[5] += high.y, value[6] += high.z, value[7] += high.w;
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
