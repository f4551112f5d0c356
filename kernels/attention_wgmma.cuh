/* Attention for Hopper (sm_90a), for heads up to 160 wide: wgmma on tiles that the copy engine
 * brings, with warps of one block in two roles (as FlashAttention-3 does, Shah et al. 2024, arXiv
 * 2407.08608).
 *
 * A block stays on its multiprocessor and makes one tile of 128 queries of a head after another.
 * Warpgroup 0 only starts copies: a tile's queries, and KEYS keys and values at a time into a ring
 * of STAGES. Warpgroups 1 and 2 have 64 queries each. Each starts the scores of the next keys and
 * the product of the last weights with their values, and makes the softmax of the next while that
 * product and those of the other group run. What follows a tile's last block of keys is the next
 * tile's first, so that nothing stands still between tiles.
 *
 * A head is one to three tiles of 64 channels. Channels past the head's width and tokens past the
 * tensor's end come as zeros from the copy engine. */
#ifndef KS_KERNELS_ATTENTION_WGMMA_CUH
#define KS_KERNELS_ATTENTION_WGMMA_CUH

#include "attention_mma.cuh"
#include "wgmma.cuh"

enum {
    KS_HOPPER_GROUPS = 2, /* warpgroups with queries */
    KS_HOPPER_QUERIES = 64 * KS_HOPPER_GROUPS,
    KS_HOPPER_USERS = 128 * KS_HOPPER_GROUPS,
    KS_HOPPER_THREADS = 128 + KS_HOPPER_USERS,
    KS_HOPPER_MOST_STAGES = 4,
    KS_HOPPER_TILES = 2, /* tiles of queries in shared memory */
    /* named barriers: 0 is __syncthreads */
    KS_HOPPER_ALL_USERS = 1,
    KS_HOPPER_GROUP = 2, /* and on, one a group */
    /* Launch bounds tell the launcher whether the code was built for sm_90a. */
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    KS_HOPPER_BOUND = KS_HOPPER_THREADS
#else
    KS_HOPPER_BOUND = 32
#endif
};

struct ks_hopper_job {
    CUtensorMap q, k, v, y;
    ks_attention_job job;
    int tiles; /* of KS_HOPPER_QUERIES queries, of all heads and rows */
};

struct ks_hopper_barriers {
    uint64_t full_q[KS_HOPPER_TILES], empty_q[KS_HOPPER_TILES], full_k[KS_HOPPER_MOST_STAGES],
        full_v[KS_HOPPER_MOST_STAGES], empty_k[KS_HOPPER_MOST_STAGES],
        empty_v[KS_HOPPER_MOST_STAGES];
};

/* WIDTH: the head's, up to the next multiple of 16. */
template <int WIDTH, int KEYS, int STAGES> struct ks_hopper_plan {
    enum {
        TILES = (WIDTH + 63) / 64,
        Q_TILE = 64 * 128, /* bytes of 64 channels of a group's queries */
        TILE = KEYS * 128, /* and of a stage's keys */
        STAGE = TILES * TILE,
        GROUP = TILES * Q_TILE,
        QUERIES = KS_HOPPER_GROUPS * GROUP
    };
    static constexpr size_t shared =
        KS_HOPPER_TILES * QUERIES + 2 * STAGES * STAGE + sizeof(ks_hopper_barriers);
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* 128 queries of one head, against blocks of keys: one even where there is no key, all masked. */
struct ks_hopper_tile {
    ks_attention_share share;
    int blocks;
};

/* Tile `index` of a job; those of one head follow each other. */
template <int KEYS>
__device__ __forceinline__ ks_hopper_tile ks_hopper_tile_of(const ks_attention_job &job, int index)
{
    const int tiles = (job.q_tokens + KS_HOPPER_QUERIES - 1) / KS_HOPPER_QUERIES;
    const int pair = index / tiles, row = pair / job.heads;
    ks_hopper_tile tile;
    tile.share =
        ks_attention_share_of(job, row, pair - row * job.heads,
                              (index - pair * tiles) * KS_HOPPER_QUERIES, KS_HOPPER_QUERIES);
    tile.blocks = max(1, (tile.share.keys + KEYS - 1) / KEYS);
    return tile;
}

/* Where a block's barriers and tiles in shared memory are. */
template <int WIDTH, int KEYS, int STAGES> struct ks_hopper_places {
    using plan = ks_hopper_plan<WIDTH, KEYS, STAGES>;

    static __device__ __forceinline__ unsigned char *queries(int tile)
    {
        return ks_shared + tile % KS_HOPPER_TILES * plan::QUERIES;
    }

    static __device__ __forceinline__ unsigned char *keys(int step)
    {
        return ks_shared + KS_HOPPER_TILES * plan::QUERIES + step % STAGES * plan::STAGE;
    }

    static __device__ __forceinline__ unsigned char *values(int step)
    {
        return keys(step) + STAGES * plan::STAGE;
    }

    static __device__ __forceinline__ ks_hopper_barriers *barriers()
    {
        return reinterpret_cast<ks_hopper_barriers *>(
            ks_shared + KS_HOPPER_TILES * plan::QUERIES + 2 * STAGES * plan::STAGE);
    }
};

/* The thread that copies queries and keys (or that which copies values). */
template <int WIDTH, int KEYS, int STAGES, bool VALUES>
__device__ __forceinline__ void ks_hopper_produce(const ks_hopper_job &hopper)
{
    using plan = ks_hopper_plan<WIDTH, KEYS, STAGES>;
    using at = ks_hopper_places<WIDTH, KEYS, STAGES>;
    ks_hopper_barriers *barriers = at::barriers();
    uint64_t *full = VALUES ? barriers->full_v : barriers->full_k;
    uint64_t *empty = VALUES ? barriers->empty_v : barriers->empty_k;
    int step = 0, tiles = 0;
    for (int index = (int)blockIdx.x; index < hopper.tiles; index += (int)gridDim.x, tiles++) {
        const ks_hopper_tile tile = ks_hopper_tile_of<KEYS>(hopper.job, index);
        const ks_attention_share &share = tile.share;
        if (!VALUES) {
            const int stage = tiles % KS_HOPPER_TILES;
            ks_barrier_wait(&barriers->empty_q[stage], (uint32_t)(tiles / KS_HOPPER_TILES % 2 ^ 1));
            ks_barrier_expect(&barriers->full_q[stage], plan::QUERIES);
            for (int i = 0; i < KS_HOPPER_GROUPS * plan::TILES; i++)
                ks_tensor_load(at::queries(tiles) + i * plan::Q_TILE, &hopper.q,
                               &barriers->full_q[stage], i % plan::TILES * 64, share.head,
                               share.first + i / plan::TILES * 64, share.row);
        }
        for (int block = 0; block < tile.blocks; block++, step++) {
            const int stage = step % STAGES;
            ks_barrier_wait(&empty[stage], (uint32_t)(step / STAGES % 2 ^ 1));
            ks_barrier_expect(&full[stage], plan::STAGE);
            for (int t = 0; t < plan::TILES; t++)
                ks_tensor_load((VALUES ? at::values(step) : at::keys(step)) + t * plan::TILE,
                               VALUES ? &hopper.v : &hopper.k, &full[stage], t * 64, share.head,
                               block * KEYS, share.kv_row);
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
            ks_wgmma<T, 64>::values(out + t * 8, weight[g],
                                    ks_wgmma_tile(v, (t * KEYS + g * 16) * 128), add || g > 0);
        if constexpr (WIDTH % 64 != 0)
            ks_wgmma<T, WIDTH % 64>::values(
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

/* A group with 64 queries of every tile. */
template <class T, int WIDTH, int KEYS, int STAGES>
__device__ __forceinline__ void ks_hopper_consume(const ks_hopper_job &hopper, int group)
{
    using plan = ks_hopper_plan<WIDTH, KEYS, STAGES>;
    using at = ks_hopper_places<WIDTH, KEYS, STAGES>;
    ks_hopper_barriers *barriers = at::barriers();
    const int thread = (int)threadIdx.x % 128;
    const bool first_lane = thread % 32 == 0;
    const float log_scale = hopper.job.scale * 1.44269504088896340736f;

    float score[1][KEYS / 8][4], out[1][WIDTH / 8][4], factor[1][2];
    uint32_t weight[KEYS / 16][4];
    ks_softmax<1> softmax;
    /* The block of keys whose weights are ready, or to be made: which of its tile, which of all,
     * and which tile that is. */
    ks_hopper_tile tile = ks_hopper_tile_of<KEYS>(hopper.job, (int)blockIdx.x);
    int block = 0, step = 0, tiles = 0, index = (int)blockIdx.x;
    int leaving = -1; /* the tile whose results are still being copied out, if one is */

    const auto queries = [&](int which) { return at::queries(which) + group * plan::GROUP; };
    const auto is_last = [&]() {
        return block + 1 == tile.blocks && index + (int)gridDim.x >= hopper.tiles;
    };
    const auto soften = [&]() {
        const int keys = tile.share.keys - block * KEYS;
        const int query = tile.share.first + group * 64 + thread / 32 * 16 + thread % 32 / 4;
        if (hopper.job.causal)
            ks_softmax_mask(score, keys, query + 1 - block * KEYS);
        else if (keys < KEYS)
            ks_softmax_end(score, keys);
        ks_softmax_step(score, softmax, log_scale, factor);
    };
    const auto keep_weights = [&]() {
#pragma unroll
        for (int g = 0; g < KEYS / 16; g++)
            ks_softmax_operand<T>(weight[g], score[0], g);
    };
    const auto await_keys = [&]() {
        ks_barrier_wait(&barriers->full_k[step % STAGES], (uint32_t)(step / STAGES % 2));
    };
    const auto await_values = [&]() {
        ks_barrier_wait(&barriers->full_v[step % STAGES], (uint32_t)(step / STAGES % 2));
        const int keys = tile.share.keys - block * KEYS;
        if (keys < KEYS && tile.share.keys < hopper.job.kv_tokens)
            ks_hopper_clear<WIDTH, KEYS, KS_HOPPER_USERS>(at::values(step), keys,
                                                          (int)threadIdx.x - 128);
    };
    const auto await_queries = [&]() {
        ks_barrier_wait(&barriers->full_q[tiles % KS_HOPPER_TILES],
                        (uint32_t)(tiles / KS_HOPPER_TILES % 2));
    };
    /* Gives back the stage of queries that results are leaving. */
    const auto let_go = [&]() {
        if (leaving >= 0 && thread == 0) {
            ks_tensor_store_wait();
            ks_barrier_arrive(&barriers->empty_q[leaving % KS_HOPPER_TILES]);
        }
        leaving = -1;
    };
    const auto finish = [&](const ks_attention_share &share, int which, const ks_softmax<1> &sums) {
        ks_softmax_close(sums, factor);
        ks_softmax_scale(out, factor);
        ks_hopper_store<T, WIDTH>(hopper, share.row, share.head, share.first + group * 64,
                                  KS_HOPPER_GROUP + group, queries(which), out[0]);
        leaving = which;
    };

    await_queries();
    await_keys();
    ks_wgmma_fence();
    ks_hopper_scores<T, WIDTH, KEYS>(score[0], queries(0), at::keys(0));
    ks_wgmma_wait<0>();
    ks_wgmma_settle(score[0]);
    if (first_lane)
        ks_barrier_arrive(&barriers->empty_k[0]);
    ks_softmax_open(softmax);
    soften();
    keep_weights();
    await_values();
    while (!is_last()) {
        const bool begun = block > 0, ends = block + 1 == tile.blocks;
        const ks_attention_share share = tile.share;
        step++, block++;
        if (ends) {
            let_go(); /* before the queries that are to come there */
            index += (int)gridDim.x;
            tile = ks_hopper_tile_of<KEYS>(hopper.job, index);
            block = 0, tiles++;
            await_queries();
        }
        await_keys();
        ks_wgmma_fence();
        ks_hopper_scores<T, WIDTH, KEYS>(score[0], queries(tiles), at::keys(step));
        ks_hopper_values<T, WIDTH, KEYS>(out[0], weight, at::values(step - 1), begun);
        ks_wgmma_wait<1>();
        ks_wgmma_settle(score[0]);
        if (first_lane)
            ks_barrier_arrive(&barriers->empty_k[step % STAGES]);
        let_go();
        const ks_softmax<1> sums = softmax;
        if (ends)
            ks_softmax_open(softmax);
        soften();
        ks_wgmma_settle(score[0]); /* the softmax stands above the wait, which ends its overlap */
        await_values();
        ks_wgmma_wait<0>();
        ks_wgmma_settle(out[0]);
        if (first_lane)
            ks_barrier_arrive(&barriers->empty_v[(step - 1) % STAGES]);
        if (ends)
            finish(share, tiles - 1, sums);
        else
            ks_softmax_scale(out, factor);
        keep_weights();
    }
    ks_wgmma_fence();
    ks_hopper_values<T, WIDTH, KEYS>(out[0], weight, at::values(step), block > 0);
    ks_wgmma_wait<0>();
    ks_wgmma_settle(out[0]);
    finish(tile.share, tiles, softmax);
    if (thread == 0)
        ks_tensor_store_wait();
}

#endif

/* The grid: as many blocks as run at once, each with every gridDim.x-th tile. */
template <class T, int WIDTH, int KEYS, int STAGES>
__global__ void __launch_bounds__(KS_HOPPER_BOUND, 1) ks_attention_hopper(
    const __grid_constant__ ks_hopper_job hopper)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    ks_hopper_barriers *barriers = ks_hopper_places<WIDTH, KEYS, STAGES>::barriers();
    if (threadIdx.x == 0) {
        for (int s = 0; s < KS_HOPPER_TILES; s++) {
            ks_barrier_init(&barriers->full_q[s], 1);
            ks_barrier_init(&barriers->empty_q[s], KS_HOPPER_GROUPS);
        }
        for (int s = 0; s < STAGES; s++) {
            ks_barrier_init(&barriers->full_k[s], 1);
            ks_barrier_init(&barriers->full_v[s], 1);
            ks_barrier_init(&barriers->empty_k[s], KS_HOPPER_USERS / 32);
            ks_barrier_init(&barriers->empty_v[s], KS_HOPPER_USERS / 32);
        }
        ks_barrier_publish();
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        ks_registers_lower<24>();
        if (threadIdx.x == 0)
            ks_hopper_produce<WIDTH, KEYS, STAGES, false>(hopper);
        else if (threadIdx.x == 32)
            ks_hopper_produce<WIDTH, KEYS, STAGES, true>(hopper);
    } else {
        ks_registers_raise<240>();
        ks_hopper_consume<T, WIDTH, KEYS, STAGES>(hopper, (int)threadIdx.x / 128 - 1);
    }
#endif
}

#endif
