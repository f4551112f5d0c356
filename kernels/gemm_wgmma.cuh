/* Linear layers on Hopper (sm_90a): y [tokens, outputs] = x [tokens, terms] w^T with bias, residual,
 * GEGLU's gate and a layer norm of x in the epilogue.
 *
 * A block stays on its multiprocessor and makes one tile of ROWS x COLUMNS after the other.
 * Warpgroup 0 only starts copies: 64 terms of x and w at a time into a ring of STAGES. Warpgroups 1
 * and 2 take the tiles in turn: while one multiplies, the other finishes and writes its last tile,
 * so that the tensor cores wait for no epilogue.
 *
 * Every sum runs over the terms in order, 16 at a time, whatever the tile: a token's bits depend on
 * neither its place nor its neighbours.
 *
 * w comes with its outputs in lane order (output_at in gemm.cu): a thread's sums for 32 columns of
 * the product are then 8 neighbouring outputs, which it writes as 16 bytes, or 4 values and the 4
 * gates that belong to them.
 */
#ifndef KS_KERNELS_GEMM_WGMMA_CUH
#define KS_KERNELS_GEMM_WGMMA_CUH

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

struct ks_gemm_job {
    CUtensorMap x, w;
    void *y;
    const void *residual;      /* or NULL */
    const float *bias, *sums;  /* or NULL */
    const float2 *moments;     /* of x's tokens: mean and 1 / deviation; NULL with sums */
    int64_t y_stride, residual_stride;
    int tokens, columns; /* of the product: GEGLU's columns are twice its outputs */
    int steps;        /* stages that the terms fill */
    int down, across; /* tiles */
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

/* First token and column of a tile. Tiles run down a band of tokens before they go across, so that
 * what runs at once shares its parts of x and w in the L2 cache. */
template <class PLAN> __device__ __forceinline__ int2 ks_gemm_origin(const ks_gemm_job &job,
                                                                     int tile)
{
    const int band = tile / (KS_GEMM_BAND * job.across);
    const int left = tile - band * KS_GEMM_BAND * job.across;
    const int rows = min((int)KS_GEMM_BAND, job.down - band * KS_GEMM_BAND), column = left / rows;
    return make_int2((band * KS_GEMM_BAND + left - column * rows) * PLAN::ROWS,
                     column * PLAN::COLUMNS);
}

/* The copying thread. */
template <class PLAN>
__device__ __forceinline__ void ks_gemm_produce(const ks_gemm_job &job, ks_gemm_barriers *barriers,
                                                unsigned char *tiles)
{
    const int all = job.down * job.across;
    ks_gemm_place place = {0, 0};
    for (int tile = (int)blockIdx.x; tile < all; tile += (int)gridDim.x) {
        const int2 origin = ks_gemm_origin<PLAN>(job, tile);
        for (int step = 0; step < job.steps; step++) {
            uint64_t *full = &barriers->full[place.stage];
            unsigned char *x = tiles + place.stage * PLAN::STAGE;
            ks_barrier_wait(&barriers->empty[place.stage], place.parity ^ 1);
            ks_barrier_expect(full, PLAN::STAGE);
            ks_matrix_load(x, &job.x, full, step * KS_GEMM_DEPTH, origin.x);
            ks_matrix_load(x + PLAN::X_TILE, &job.w, full, step * KS_GEMM_DEPTH, origin.y);
            ks_gemm_advance<PLAN::STAGES>(place);
        }
    }
}

/* The token of a thread's r-th sums: row r * 8 of a block of 64, two a block. */
__device__ __forceinline__ int ks_gemm_token(int first, int r)
{
    return first + r * 8 + r / 2 * 48;
}

/* A thread's 8 sums of a token, finished: its outputs from `output` on, rounded once. */
template <class T>
__device__ __forceinline__ void ks_gemm_write(const ks_gemm_job &job, int token, int output,
                                              float (&value)[8], const uint4 &residual)
{
    if (job.residual) {
        float more[8];
        ks_unit<T, 8>::open(more, residual);
#pragma unroll
        for (int i = 0; i < 8; i++)
            value[i] += more[i];
    }
    *reinterpret_cast<uint4 *>(static_cast<T *>(job.y) + token * job.y_stride + output) =
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

/* A warpgroup's sums of one tile, to y. first: the thread's first token. */
template <class T, int BLOCKS, int COLUMNS, bool GATED>
__device__ __forceinline__ void ks_gemm_finish(const ks_gemm_job &job, int2 origin, int first,
                                               const float (&sum)[BLOCKS][COLUMNS / 8][4])
{
    const int part = (int)threadIdx.x % 4, half = GATED ? job.columns / 2 : 4;
    float2 moments[2 * BLOCKS]; /* 0 and 1 without a norm */
#pragma unroll
    for (int r = 0; r < 2 * BLOCKS; r++) {
        const int token = ks_gemm_token(first, r);
        moments[r] = make_float2(0.0f, 1.0f);
        if (job.moments && token < job.tokens)
            moments[r] = job.moments[token];
    }
#pragma unroll
    for (int g = 0; g < COLUMNS / 32; g++) {
        const int column = origin.y + g * 32;
        if (column >= job.columns)
            return;
        const int output = GATED ? column / 2 + part * 4 : column + part * 8;
        float bias[8] = {}, sums[8] = {};
        uint4 residual[2 * BLOCKS] = {};
        if (job.bias)
            ks_gemm_vector(bias, job.bias + output, job.bias + output + half);
        if (job.sums)
            ks_gemm_vector(sums, job.sums + output, job.sums + output + half);
        if (!GATED && job.residual)
#pragma unroll
            for (int r = 0; r < 2 * BLOCKS; r++)
                if (ks_gemm_token(first, r) < job.tokens)
                    residual[r] = *reinterpret_cast<const uint4 *>(
                        static_cast<const T *>(job.residual) +
                        ks_gemm_token(first, r) * job.residual_stride + output);
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
            if constexpr (GATED)
                ks_gemm_write_gated<T>(job, token, output, value);
            else
                ks_gemm_write<T>(job, token, output, value, residual[r]);
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
template <class T, class PLAN, bool GATED>
__device__ __forceinline__ void ks_gemm_consume(const ks_gemm_job &job, int group,
                                                ks_gemm_barriers *barriers,
                                                const unsigned char *tiles)
{
    const int all = job.down * job.across, blocks = (int)gridDim.x, thread = (int)threadIdx.x % 128;
    int tile = (int)blockIdx.x + group * blocks;
    if (group == 1) /* group 0 begins */
        ks_threads_arrive(KS_GEMM_TURN, KS_GEMM_USERS);
    for (int turn = group; tile < all; turn += 2, tile += 2 * blocks) {
        const int2 origin = ks_gemm_origin<PLAN>(job, tile);
        const int first = origin.x + thread / 32 * 16 + thread % 32 / 4;
        float sum[PLAN::BLOCKS][PLAN::COLUMNS / 8][4];
        ks_gemm_sum<T, PLAN>(sum, job, group, turn, tile + blocks >= all, barriers, tiles);
        ks_gemm_finish<T, PLAN::BLOCKS, PLAN::COLUMNS, GATED>(job, origin, first, sum);
    }
}

#endif

template <class T, class PLAN, bool GATED>
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
            ks_gemm_produce<PLAN>(job, barriers, tiles);
    } else {
        ks_registers_raise<240>();
        ks_gemm_consume<T, PLAN, GATED>(job, (int)threadIdx.x / 128 - 1, barriers, tiles);
    }
#endif
}

#endif
