/* Attention for Hopper (sm_90a), for heads up to 160 wide: wgmma on tiles that the copy engine
 * brings, with warps of one block in two roles (as FlashAttention-3 has, Shah et al. 2024, arXiv
 * 2407.08608).
 *
 * A block stays on its multiprocessor and makes one tile of queries of a head after another.
 * Warpgroup 0 only starts copies: a tile's queries, and KEYS keys and values at a time into a ring
 * of STAGES. GROUPS other warpgroups have 64 queries of the tile each, and for each block of keys
 * have in turn: the scores' product, the weights, the product with the values. Each scheduler has a
 * warp of every group, so that one has exponentials to make while another's product runs. What
 * follows a tile's last block of keys is the next tile's first. Where the last tiles are fewer than
 * multiprocessors, they are split into tiles of fewer groups.
 *
 * What it is so for (bench_attention_gpu, H100, 16 rows of 4096 tokens, heads 40 and 64 wide, ms):
 * two groups, each with the next scores' product under its own softmax, took 1.29 and 1.62; four
 * that do one thing after another, with registers for that alone, 0.94 and 1.45. Then every
 * instruction counts: exponentials by polynomials or sums by the tensor cores only cost more. A
 * look at each block's largest score was a fifth of all instructions, and without it 0.90 and 1.43
 * are left:
 *
 * Weights are relative to a reference, the largest score of a tile's first block of keys. Later
 * scores may outgrow it: relative to any number weights are as exact, while they are in half
 * precision's range. Their sum, which is needed anyway, tells when they may not be. That block is
 * then done again, with the largest scores so far as the new reference. A query's own scores and
 * those of its group decide this, never another row.
 *
 * A head is one to three tiles of 64 channels. Channels past the head's width and tokens past the
 * tensor's end come as zeros from the copy engine. */
#ifndef KS_KERNELS_ATTENTION_WGMMA_CUH
#define KS_KERNELS_ATTENTION_WGMMA_CUH

#include "attention_mma.cuh"
#include "wgmma.cuh"

enum {
    KS_HOPPER_MOST_STAGES = 4,
    KS_HOPPER_TILES = 2, /* tiles of queries in shared memory */
    /* named barriers: 0 is __syncthreads */
    KS_HOPPER_ALL_USERS = 1,
    KS_HOPPER_GROUP = 2 /* and on, one a group */
};

/* Tiles of queries, of all heads and rows; those from the `whole`-th on are split into so many
 * parts, one group's queries or more each, which are tiles of their own. */
struct ks_hopper_job {
    CUtensorMap q, k, v, y;
    ks_attention_job job;
    int tiles, whole, parts;
};

struct ks_hopper_barriers {
    uint64_t full_q[KS_HOPPER_TILES], empty_q[KS_HOPPER_TILES], full_k[KS_HOPPER_MOST_STAGES],
        full_v[KS_HOPPER_MOST_STAGES], empty_k[KS_HOPPER_MOST_STAGES],
        empty_v[KS_HOPPER_MOST_STAGES];
};

/* WIDTH: the head's, up to the next multiple of 8. GROUPS: warpgroups with queries, 2 or 4. */
template <int WIDTH_, int KEYS_, int STAGES_, int GROUPS_> struct ks_hopper_plan {
    enum {
        WIDTH = WIDTH_,
        KEYS = KEYS_,
        STAGES = STAGES_,
        GROUPS = GROUPS_,
        TOKENS = 64 * GROUPS, /* queries of a tile */
        USERS = 128 * GROUPS,
        THREADS = 128 + USERS,
        REGISTERS = GROUPS == 2 ? 240 : 112, /* of a thread with queries */
        /* Launch bounds tell the launcher whether the code was built for sm_90a. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
        BOUND = THREADS,
#else
        BOUND = 32,
#endif
        TILES = (WIDTH + 63) / 64,
        Q_TILE = 64 * 128, /* bytes of 64 channels of a group's queries */
        TILE = KEYS * 128, /* and of a stage's keys */
        STAGE = TILES * TILE,
        GROUP = TILES * Q_TILE,
        QUERIES = GROUPS * GROUP
    };
    static constexpr size_t shared =
        KS_HOPPER_TILES * QUERIES + 2 * STAGES * STAGE + sizeof(ks_hopper_barriers);
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* The queries of a tile, those of its first `groups`, against blocks of keys: one even where there
 * is no key, all masked. */
struct ks_hopper_tile {
    ks_attention_share share;
    int groups, blocks;
};

/* Tile `index` of a job; those of one head follow each other. */
template <class PLAN>
__device__ __forceinline__ ks_hopper_tile ks_hopper_tile_of(const ks_hopper_job &hopper, int index)
{
    const ks_attention_job &job = hopper.job;
    const int parts = index < hopper.whole ? 1 : hopper.parts;
    const int past = parts == 1 ? 0 : index - hopper.whole;
    const int whole = index - past + past / parts, part = past % parts;
    const int tiles = (job.q_tokens + PLAN::TOKENS - 1) / PLAN::TOKENS;
    const int pair = whole / tiles, row = pair / job.heads;
    ks_hopper_tile tile;
    tile.groups = PLAN::GROUPS / parts;
    tile.share = ks_attention_share_of(
        job, row, pair - row * job.heads,
        (whole - pair * tiles) * PLAN::TOKENS + part * tile.groups * 64, tile.groups * 64);
    tile.blocks = max(1, (tile.share.keys + PLAN::KEYS - 1) / PLAN::KEYS);
    return tile;
}

/* Where a block's barriers and tiles in shared memory are. */
template <class PLAN> struct ks_hopper_places {
    static __device__ __forceinline__ unsigned char *queries(int tile)
    {
        return ks_shared + tile % KS_HOPPER_TILES * PLAN::QUERIES;
    }

    static __device__ __forceinline__ unsigned char *keys(int stage)
    {
        return ks_shared + KS_HOPPER_TILES * PLAN::QUERIES + stage * PLAN::STAGE;
    }

    static __device__ __forceinline__ unsigned char *values(int stage)
    {
        return keys(stage) + PLAN::STAGES * PLAN::STAGE;
    }

    static __device__ __forceinline__ ks_hopper_barriers *barriers()
    {
        return reinterpret_cast<ks_hopper_barriers *>(
            ks_shared + KS_HOPPER_TILES * PLAN::QUERIES + 2 * PLAN::STAGES * PLAN::STAGE);
    }
};

/* The thread that copies queries and keys (or that which copies values). */
template <class PLAN, bool VALUES>
__device__ __forceinline__ void ks_hopper_produce(const ks_hopper_job &hopper)
{
    using at = ks_hopper_places<PLAN>;
    ks_hopper_barriers *barriers = at::barriers();
    uint64_t *full = VALUES ? barriers->full_v : barriers->full_k;
    uint64_t *empty = VALUES ? barriers->empty_v : barriers->empty_k;
    int step = 0, tiles = 0;
    for (int index = (int)blockIdx.x; index < hopper.tiles; index += (int)gridDim.x, tiles++) {
        const ks_hopper_tile tile = ks_hopper_tile_of<PLAN>(hopper, index);
        const ks_attention_share &share = tile.share;
        if (!VALUES) {
            const int stage = tiles % KS_HOPPER_TILES;
            ks_barrier_wait(&barriers->empty_q[stage], (uint32_t)(tiles / KS_HOPPER_TILES % 2 ^ 1));
            ks_barrier_expect(&barriers->full_q[stage], PLAN::QUERIES);
            for (int i = 0; i < PLAN::GROUPS * PLAN::TILES; i++)
                ks_tensor_load(at::queries(tiles) + i * PLAN::Q_TILE, &hopper.q,
                               &barriers->full_q[stage], i % PLAN::TILES * 64, share.head,
                               share.first + i / PLAN::TILES * 64, share.row);
        }
        for (int block = 0; block < tile.blocks; block++, step++) {
            const int stage = step % PLAN::STAGES;
            ks_barrier_wait(&empty[stage], (uint32_t)(step / PLAN::STAGES % 2 ^ 1));
            ks_barrier_expect(&full[stage], PLAN::STAGE);
            for (int t = 0; t < PLAN::TILES; t++)
                ks_tensor_load((VALUES ? at::values(stage) : at::keys(stage)) + t * PLAN::TILE,
                               VALUES ? &hopper.v : &hopper.k, &full[stage], t * 64, share.head,
                               block * PLAN::KEYS, share.kv_row);
        }
    }
}

/* Starts score = q k^T. */
template <class T, int WIDTH, int KEYS>
__device__ __forceinline__ void ks_hopper_scores(float (&score)[KEYS / 8][4],
                                                 const unsigned char *q, const unsigned char *k)
{
#pragma unroll
    for (int d = 0; d < WIDTH; d += 16)
        ks_wgmma<T, KEYS>::scores(score, ks_wgmma_tile(q, d / 64 * 64 * 128 + d % 64 * 2),
                                  ks_wgmma_tile(k, d / 64 * KEYS * 128 + d % 64 * 2), d > 0);
    ks_wgmma_commit();
}

/* Starts out += weights v, or out = weights v. */
template <class T, int WIDTH, int KEYS>
__device__ __forceinline__ void ks_hopper_values(float (&out)[WIDTH / 8][4],
                                                 const uint32_t (&weight)[KEYS / 16][4],
                                                 const unsigned char *v, bool add)
{
#pragma unroll
    for (int g = 0; g < KEYS / 16; g++) {
#pragma unroll
        for (int t = 0; t < WIDTH / 64; t++)
            ks_wgmma_values<T, 64>::values(
                out + t * 8, weight[g], ks_wgmma_tile(v, (t * KEYS + g * 16) * 128), add || g > 0);
        if constexpr (WIDTH % 64 != 0)
            ks_wgmma_values<T, WIDTH % 64>::values(
                out + WIDTH / 64 * 8, weight[g],
                ks_wgmma_tile(v, (WIDTH / 64 * KEYS + g * 16) * 128), add || g > 0);
    }
    ks_wgmma_commit();
}

/* Values of tokens past the last one become zeros: their weights are 0, but 0 * NaN is NaN. user:
 * of so many USERS, which all call this. */
template <int WIDTH, int KEYS, int USERS>
__device__ __forceinline__ void ks_hopper_clear(unsigned char *v, int keys, int user)
{
    for (int t = 0; t < (WIDTH + 63) / 64; t++)
        for (int i = keys * 8 + user; i < KEYS * 8; i += USERS)
            reinterpret_cast<uint4 *>(v + t * KEYS * 128)[i] = make_uint4(0, 0, 0, 0);
    ks_fence_async();
    ks_threads_wait(KS_HOPPER_ALL_USERS, USERS);
}

/* Starts the copy of a warpgroup's finished 64 queries, from `token` on, to memory by way of its
 * queries' tiles; its first thread has to wait for it. barrier: a named one of the group's own. */
template <class T, int WIDTH>
__device__ __forceinline__ void ks_hopper_store(const ks_hopper_job &hopper, int row, int head,
                                                int token, int barrier, unsigned char *tiles,
                                                const float (&out)[WIDTH / 8][4])
{
    const int thread = (int)threadIdx.x % 128, query = thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
    for (int j = 0; j < WIDTH / 8; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            *reinterpret_cast<uint32_t *>(tiles + j / 8 * 64 * 128 + (query + h * 8) * 128 +
                                          (j % 8 ^ query % 8) * 16 + thread % 4 * 4) =
                ks_pack<T>(out[j][2 * h], out[j][2 * h + 1]);
    ks_fence_async();
    ks_threads_wait(barrier, 128);
    if (thread != 0)
        return;
    for (int t = 0; t < (WIDTH + 63) / 64; t++)
        ks_tensor_store(&hopper.y, tiles + t * 64 * 128, t * 64, head, token, row);
    ks_tensor_store_commit();
}

/* What a group carries through a tile. A lane holds queries lane / 4 and lane / 4 + 8 of its warp's
 * 16. Weights are 2^(score * log_scale - reference); sum: of the weights of this lane's keys. */
template <class PLAN> struct ks_hopper_group {
    float out[1][PLAN::WIDTH / 8][4], reference[2], sum[2];
};

template <class PLAN>
__device__ __forceinline__ void ks_hopper_open(ks_hopper_group<PLAN> &group)
{
#pragma unroll
    for (int j = 0; j < PLAN::WIDTH / 8; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            group.out[0][j][e] = 0.0f;
    group.sum[0] = group.sum[1] = 0.0f;
    group.reference[0] = group.reference[1] = -FLT_MAX; /* so that all scores may be -inf */
}

/* The largest score of each of the lane's queries, known to the four lanes that share them. */
template <int WIDE>
__device__ __forceinline__ void ks_hopper_largest(float (&largest)[2],
                                                  const float (&score)[WIDE][4])
{
#pragma unroll
    for (int h = 0; h < 2; h++)
        largest[h] = fmaxf(score[0][2 * h], score[0][2 * h + 1]);
#pragma unroll
    for (int j = 1; j < WIDE; j++)
#pragma unroll
        for (int h = 0; h < 2; h++)
            largest[h] = fmaxf(largest[h], fmaxf(score[j][2 * h], score[j][2 * h + 1]));
#pragma unroll
    for (int lanes = 1; lanes < 4; lanes *= 2)
#pragma unroll
        for (int h = 0; h < 2; h++)
            largest[h] = fmaxf(largest[h], __shfl_xor_sync(0xffffffffu, largest[h], lanes));
}

/* The largest scores become the reference of those queries whose scores they outgrow, and what was
 * summed before is scaled. Products are rounded, so that kernels with other numbers of groups give
 * the same bits. */
template <class PLAN>
__device__ __forceinline__ void ks_hopper_refer(ks_hopper_group<PLAN> &group,
                                                const float (&score)[PLAN::KEYS / 8][4],
                                                float log_scale)
{
    float largest[2], factor[1][2];
    ks_hopper_largest(largest, score);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        largest[h] = fmaxf(__fmul_rn(largest[h], log_scale), group.reference[h]);
        factor[0][h] = ks_exp2(group.reference[h] - largest[h]);
        group.reference[h] = largest[h];
        group.sum[h] = __fmul_rn(group.sum[h], factor[0][h]);
    }
    ks_softmax_scale(group.out, factor);
}

/* Scores become weights; sum: of the lane's, of each of its queries. */
template <class T, class PLAN>
__device__ __forceinline__ void ks_hopper_weigh(uint32_t (&weight)[PLAN::KEYS / 16][4],
                                                float (&sum)[2], float (&score)[PLAN::KEYS / 8][4],
                                                const float (&reference)[2], float log_scale)
{
    sum[0] = sum[1] = 0.0f;
#pragma unroll
    for (int g = 0; g < PLAN::KEYS / 16; g++) {
#pragma unroll
        for (int j = 2 * g; j < 2 * g + 2; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                score[j][e] = ks_exp2(fmaf(score[j][e], log_scale, -reference[e / 2]));
                sum[e / 2] += score[j][e];
            }
        ks_softmax_operand<T>(weight[g], score, g);
    }
}

/* Whether any thread of a warpgroup says so. barrier: a named one of the group's own. */
__device__ __forceinline__ bool ks_group_any(int barrier, bool mine)
{
    uint32_t any;
    asm volatile("{\n.reg .pred p, q;\nsetp.ne.u32 p, %1, 0;\n"
                 "bar.red.or.pred q, %2, 128, p;\nselp.u32 %0, 1, 0, q;\n}"
                 : "=r"(any)
                 : "r"((uint32_t)mine), "r"(barrier)
                 : "memory");
    return any != 0;
}

/* threadIdx.x, read again: what seldom needs it then keeps no register for it. */
__device__ __forceinline__ int ks_thread_anew()
{
    int x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* Masks the scores of a block of keys, of which `keys` and those of later blocks are left. */
template <class PLAN>
__device__ __forceinline__ void ks_hopper_mask(float (&score)[1][PLAN::KEYS / 8][4],
                                               const ks_attention_job &job,
                                               const ks_attention_share &share, int keys)
{
    if (!job.causal && keys >= PLAN::KEYS)
        return;
    const int thread = ks_thread_anew() - 128;
    const int query = share.first + thread / 32 * 16 + thread % 32 / 4;
    if (job.causal)
        ks_softmax_mask(score, keys, query + 1 - (share.keys - keys));
    else
        ks_softmax_end(score, keys);
}

/* The tile's results, scaled, on their way to memory. */
template <class T, class PLAN>
__device__ __forceinline__ void ks_hopper_close(ks_hopper_group<PLAN> &group,
                                                const ks_hopper_job &hopper,
                                                const ks_attention_share &share, int which,
                                                unsigned char *queries)
{
    float factor[1][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = group.sum[h];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        factor[0][h] = sum > 0.0f ? 1.0f / sum : 0.0f;
    }
    ks_softmax_scale(group.out, factor);
    ks_hopper_store<T, PLAN::WIDTH>(hopper, share.row, share.head, share.first + which * 64,
                                    KS_HOPPER_GROUP + which, queries, group.out[0]);
}

/* Which stage of keys and values is next, and which parity its barriers end their phase with. */
template <class PLAN> struct ks_hopper_next {
    int stage;
    uint32_t parity;

    __device__ __forceinline__ void advance()
    {
        if (++stage == PLAN::STAGES)
            stage = 0, parity ^= 1;
    }
};

/* Values of a tile's last block past its last key are cleared where the tensor has some. */
template <class PLAN>
__device__ __forceinline__ void ks_hopper_cut(const ks_hopper_job &hopper,
                                              const ks_attention_share &share, int keys,
                                              unsigned char *v)
{
    if (keys < PLAN::KEYS && share.keys < hopper.job.kv_tokens)
        ks_hopper_clear<PLAN::WIDTH, PLAN::KEYS, PLAN::USERS>(v, keys, ks_thread_anew() - 128);
}

/* A group without queries in a tile: it is done with each block of keys at once. */
template <class PLAN>
__device__ __forceinline__ void ks_hopper_pass(const ks_hopper_job &hopper,
                                               const ks_attention_share &share,
                                               ks_hopper_next<PLAN> &next)
{
    using at = ks_hopper_places<PLAN>;
    ks_hopper_barriers *barriers = at::barriers();
    int keys = share.keys;
    do {
        ks_barrier_wait(&barriers->full_k[next.stage], next.parity);
        ks_barrier_wait(&barriers->full_v[next.stage], next.parity);
        ks_hopper_cut<PLAN>(hopper, share, keys, at::values(next.stage));
        if (threadIdx.x % 32 == 0) {
            ks_barrier_arrive(&barriers->empty_k[next.stage]);
            ks_barrier_arrive(&barriers->empty_v[next.stage]);
        }
        next.advance();
        keys -= PLAN::KEYS;
    } while (keys > 0);
}

/* Group `which`: 64 queries of every tile. */
template <class T, class PLAN>
__device__ __forceinline__ void ks_hopper_consume(const ks_hopper_job &hopper, int which)
{
    using at = ks_hopper_places<PLAN>;
    constexpr int WIDTH = PLAN::WIDTH, KEYS = PLAN::KEYS;
    /* Of a lane's weights of a query; half precision ends at 65504. */
    constexpr float most = 32768.0f;
    ks_hopper_barriers *barriers = at::barriers();
    const bool first = threadIdx.x % 128 == 0, first_lane = threadIdx.x % 32 == 0;
    const float log_scale = hopper.job.scale * 1.44269504088896340736f;
    ks_hopper_group<PLAN> group;
    ks_hopper_next<PLAN> next = {0, 0};
    int tiles = 0, leaving = -1; /* leaving: the tile whose results are being copied out */

    /* Gives back the stage of queries that results are leaving. */
    const auto let_go = [&]() {
        if (leaving >= 0 && first) {
            ks_tensor_store_wait();
            ks_barrier_arrive(&barriers->empty_q[leaving % KS_HOPPER_TILES]);
        }
        leaving = -1;
    };
    for (int index = (int)blockIdx.x; index < hopper.tiles; index += (int)gridDim.x, tiles++) {
        const ks_hopper_tile tile = ks_hopper_tile_of<PLAN>(hopper, index);
        const ks_attention_share &share = tile.share;
        unsigned char *q = at::queries(tiles) + which * PLAN::GROUP;
        int keys = share.keys; /* of this block and later ones */
        if (which >= tile.groups) { /* in a block's last tile */
            ks_hopper_pass<PLAN>(hopper, share, next);
            continue;
        }
        ks_hopper_open(group);
        ks_barrier_wait(&barriers->full_q[tiles % KS_HOPPER_TILES],
                        (uint32_t)(tiles / KS_HOPPER_TILES % 2));
        do {
            float score[1][KEYS / 8][4], sum[2];
            uint32_t weight[KEYS / 16][4];
            ks_barrier_wait(&barriers->full_k[next.stage], next.parity);
            for (bool refer = keys == share.keys;; refer = true) {
                ks_wgmma_fence();
                ks_hopper_scores<T, WIDTH, KEYS>(score[0], q, at::keys(next.stage));
                ks_wgmma_wait<0>();
                ks_wgmma_settle(score[0]);
                ks_hopper_mask<PLAN>(score, hopper.job, share, keys);
                if (refer) {
                    let_go();
                    ks_hopper_refer(group, score[0], log_scale);
                }
                ks_hopper_weigh<T, PLAN>(weight, sum, score[0], group.reference, log_scale);
                if (refer ||
                    !ks_group_any(KS_HOPPER_GROUP + which, !(fmaxf(sum[0], sum[1]) < most)))
                    break;
            }
            group.sum[0] += sum[0], group.sum[1] += sum[1];
            if (first_lane)
                ks_barrier_arrive(&barriers->empty_k[next.stage]);
            ks_barrier_wait(&barriers->full_v[next.stage], next.parity);
            ks_hopper_cut<PLAN>(hopper, share, keys, at::values(next.stage));
            ks_wgmma_fence();
            ks_hopper_values<T, WIDTH, KEYS>(group.out[0], weight, at::values(next.stage), true);
            ks_wgmma_wait<0>();
            ks_wgmma_settle(group.out[0]);
            if (first_lane)
                ks_barrier_arrive(&barriers->empty_v[next.stage]);
            next.advance();
            keys -= KEYS;
        } while (keys > 0);
        ks_hopper_close<T>(group, hopper, share, which, q);
        leaving = tiles;
    }
    if (first)
        ks_tensor_store_wait();
}

#endif

/* The grid: as many blocks as run at once, each with every gridDim.x-th tile. */
template <class T, class PLAN>
__global__ void __launch_bounds__(PLAN::BOUND, 1) ks_attention_hopper(
    const __grid_constant__ ks_hopper_job hopper)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    ks_hopper_barriers *barriers = ks_hopper_places<PLAN>::barriers();
    if (threadIdx.x == 0) {
        for (int s = 0; s < KS_HOPPER_TILES; s++) {
            ks_barrier_init(&barriers->full_q[s], 1);
            ks_barrier_init(&barriers->empty_q[s], PLAN::GROUPS);
        }
        for (int s = 0; s < PLAN::STAGES; s++) {
            ks_barrier_init(&barriers->full_k[s], 1);
            ks_barrier_init(&barriers->full_v[s], 1);
            ks_barrier_init(&barriers->empty_k[s], PLAN::USERS / 32);
            ks_barrier_init(&barriers->empty_v[s], PLAN::USERS / 32);
        }
        ks_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ks_registers_lower<24>();
        if (threadIdx.x == 0)
            ks_hopper_produce<PLAN, false>(hopper);
        else if (threadIdx.x == 32)
            ks_hopper_produce<PLAN, true>(hopper);
    } else {
        ks_registers_raise<PLAN::REGISTERS>();
        /* by way of a shuffle, so that the compiler knows it to be one for the warp */
        ks_hopper_consume<T, PLAN>(hopper,
                                   __shfl_sync(0xffffffffu, (int)threadIdx.x / 128, 0) - 1);
    }
#endif
}

#endif
