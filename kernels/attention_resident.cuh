/* Attention for Hopper (sm_90a) to few keys, as cross-attention has: wgmma with all keys and values
 * of a head in shared memory.
 *
 * A block is one warpgroup. It fetches the keys and values of one head once, then walks over its
 * slice of the row's queries, 64 at a time; the copy engine brings the next 64 to a ring of STAGES
 * while it works, and takes the finished ones away from where their queries stood. All scores of a
 * query are there at once, so that its softmax is a plain one. Bound by the bytes of q and y:
 * BLOCKS blocks share a multiprocessor, so that some copy while others compute.
 *
 * Tiles in shared memory are those of attention_wgmma.cuh. */
#ifndef KS_KERNELS_ATTENTION_RESIDENT_CUH
#define KS_KERNELS_ATTENTION_RESIDENT_CUH

#include "attention_wgmma.cuh"

enum {
    KS_RESIDENT_QUERIES = 64,
    KS_RESIDENT_THREADS = 128,
    KS_RESIDENT_MOST_STAGES = 3,
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    KS_RESIDENT_BOUND = KS_RESIDENT_THREADS
#else
    KS_RESIDENT_BOUND = 32 /* as KS_HOPPER_BOUND */
#endif
};

struct ks_resident_barriers {
    uint64_t keys, values, queries[KS_RESIDENT_MOST_STAGES];
};

/* WIDTH: the head's, up to the next multiple of 16. KEYS: at most. Sizes in bytes. */
template <int WIDTH, int KEYS, int STAGES> struct ks_resident_plan {
    enum {
        TILES = (WIDTH + 63) / 64,
        Q_TILE = KS_RESIDENT_QUERIES * 128,
        TILE = KEYS * 128,
        STAGE = TILES * Q_TILE,
        ALL_KEYS = TILES * TILE
    };
    static constexpr size_t shared = STAGES * STAGE + 2 * ALL_KEYS + sizeof(ks_resident_barriers);
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* A block's slice of the queries of a head, in tiles of 64, and where its stages are. */
template <int WIDTH, int KEYS, int STAGES> struct ks_resident_ring {
    using plan = ks_resident_plan<WIDTH, KEYS, STAGES>;
    const ks_hopper_job *hopper;
    ks_resident_barriers *barriers;
    unsigned char *stages;
    int row, head, first, tiles;

    __device__ __forceinline__ int token(int tile) const
    {
        return (first + tile) * KS_RESIDENT_QUERIES;
    }

    __device__ __forceinline__ unsigned char *stage(int tile) const
    {
        return stages + tile % STAGES * plan::STAGE;
    }

    /* Starts the copy of a tile of queries, if it is one. One thread. */
    __device__ __forceinline__ void load(int tile) const
    {
        if (tile >= tiles)
            return;
        uint64_t *barrier = &barriers->queries[tile % STAGES];
        ks_barrier_expect(barrier, plan::STAGE);
        for (int t = 0; t < plan::TILES; t++)
            ks_tensor_load(stage(tile) + t * plan::Q_TILE, &hopper->q, barrier, t * 64, head,
                           token(tile), row);
    }

    __device__ __forceinline__ void await(int tile) const
    {
        ks_barrier_wait(&barriers->queries[tile % STAGES], (uint32_t)(tile / STAGES % 2));
    }

    /* While `tile` is worked on: once the results of the one before have left its stage, starts the
     * copy of the next queries to there. One thread, the one that stores results. */
    __device__ __forceinline__ void refill(int tile) const
    {
        if (tile == 0 || tile + STAGES - 1 >= tiles)
            return;
        ks_tensor_store_wait();
        load(tile + STAGES - 1);
    }
};

/* Starts the copies of all keys (or values) of a head. One thread. */
template <int WIDTH, int KEYS, int STAGES>
__device__ __forceinline__ void ks_resident_fetch(unsigned char *to, const CUtensorMap *map,
                                                  uint64_t *barrier, int head, int row)
{
    using plan = ks_resident_plan<WIDTH, KEYS, STAGES>;
    ks_barrier_expect(barrier, plan::ALL_KEYS);
    for (int t = 0; t < plan::TILES; t++)
        ks_tensor_load(to + t * plan::TILE, map, barrier, t * 64, head, 0, row);
}

template <int STAGES>
__device__ __forceinline__ void ks_resident_init(ks_resident_barriers *barriers)
{
    ks_barrier_init(&barriers->keys, 1);
    ks_barrier_init(&barriers->values, 1);
    for (int s = 0; s < STAGES; s++)
        ks_barrier_init(&barriers->queries[s], 1);
    ks_barrier_publish();
}

/* The first copies. The thread that made the barriers. */
template <int WIDTH, int KEYS, int STAGES>
__device__ __forceinline__ void ks_resident_start(
    const ks_resident_ring<WIDTH, KEYS, STAGES> &ring, unsigned char *k, unsigned char *v,
    int kv_row)
{
    ks_resident_barriers *barriers = ring.barriers;
    ring.load(0);
    ks_resident_fetch<WIDTH, KEYS, STAGES>(k, &ring.hopper->k, &barriers->keys, ring.head, kv_row);
    ks_resident_fetch<WIDTH, KEYS, STAGES>(v, &ring.hopper->v, &barriers->values, ring.head,
                                           kv_row);
    for (int tile = 1; tile < STAGES; tile++)
        ring.load(tile);
}

/* All tiles of a block: keys are the row's, which may be none. */
template <class T, int WIDTH, int KEYS, int STAGES>
__device__ __forceinline__ void ks_resident_walk(
    const ks_resident_ring<WIDTH, KEYS, STAGES> &ring, int keys, const unsigned char *k,
    unsigned char *v)
{
    const float log_scale = ring.hopper->job.scale * 1.44269504088896340736f;
    ks_barrier_wait(&ring.barriers->keys, 0);
    ks_barrier_wait(&ring.barriers->values, 0);
    if (keys < KEYS)
        ks_hopper_clear<WIDTH, KEYS, KS_RESIDENT_THREADS>(v, keys, (int)threadIdx.x);
    for (int tile = 0; tile < ring.tiles; tile++) {
        unsigned char *q = ring.stage(tile);
        float score[1][KEYS / 8][4], out[1][WIDTH / 8][4], factor[1][2];
        ring.await(tile);
        ks_wgmma_fence();
        ks_hopper_scores<T, WIDTH, KEYS>(score[0], q, k);
        if (threadIdx.x == 0)
            ring.refill(tile);
        ks_wgmma_wait<0>();
        ks_wgmma_settle(score[0]);
        if (keys < KEYS)
            ks_softmax_end(score, keys);
        ks_softmax_whole(score, log_scale, factor);
        uint32_t weight[KEYS / 16][4];
#pragma unroll
        for (int g = 0; g < KEYS / 16; g++)
            ks_softmax_operand<T>(weight[g], score[0], g);
        ks_wgmma_fence();
        ks_hopper_values<T, WIDTH, KEYS>(out[0], weight, v, false);
        ks_wgmma_wait<0>();
        ks_wgmma_settle(out[0]);
        ks_softmax_scale(out, factor);
        ks_hopper_store<T, WIDTH>(*ring.hopper, ring.row, ring.head, ring.token(tile),
                                  KS_HOPPER_ALL_USERS, q, out[0]);
    }
    if (threadIdx.x == 0)
        ks_tensor_store_wait();
}

#endif

/* The grid: heads, slices of the queries, rows. */
template <class T, int WIDTH, int KEYS, int STAGES, int BLOCKS>
__global__ void __launch_bounds__(KS_RESIDENT_BOUND, BLOCKS) ks_attention_resident(
    const __grid_constant__ ks_hopper_job hopper)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using plan = ks_resident_plan<WIDTH, KEYS, STAGES>;
    unsigned char *k = ks_shared + STAGES * plan::STAGE, *v = k + plan::ALL_KEYS;
    ks_resident_barriers *barriers = reinterpret_cast<ks_resident_barriers *>(v + plan::ALL_KEYS);
    if (threadIdx.x == 0)
        ks_resident_init<STAGES>(barriers);
    const ks_attention_share share =
        ks_attention_share_of(hopper.job, (int)blockIdx.z, (int)blockIdx.x, 0, 0);
    const int tiles = (hopper.job.q_tokens + KS_RESIDENT_QUERIES - 1) / KS_RESIDENT_QUERIES;
    const int slice = (int)blockIdx.y, slices = (int)gridDim.y;
    const int least = tiles / slices, longer = tiles % slices; /* the first so many have one more */
    ks_resident_ring<WIDTH, KEYS, STAGES> ring;
    ring.hopper = &hopper;
    ring.barriers = barriers;
    ring.stages = ks_shared;
    ring.row = share.row, ring.head = share.head;
    ring.first = slice * least + min(slice, longer);
    ring.tiles = least + (slice < longer);
    if (threadIdx.x == 0)
        ks_resident_start(ring, k, v, share.kv_row);
    __syncthreads();
    ks_resident_walk<T>(ring, share.keys, k, v);
#endif
}

#endif
