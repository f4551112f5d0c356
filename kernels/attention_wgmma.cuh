/* Attention for Hopper (sm_90a), for heads up to 160 wide: wgmma on tiles that the copy engine
 * brings, with warps of one block in two roles (as FlashAttention-3 does, Shah et al. 2024, arXiv
 * 2407.08608).
 *
 * A block makes 128 queries of one head. Warpgroup 0 only starts copies: the queries once, then
 * KEYS keys and values at a time into a ring of STAGES. Warpgroups 1 and 2 have 64 queries each.
 * Each starts the scores of the next keys and the product of the last weights with their values,
 * and makes the softmax of the next while the product runs; the two take turns at the tensor
 * cores, so that one's softmax runs under the other's products.
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
    /* named barriers: 0 is __syncthreads */
    KS_HOPPER_ALL_USERS = 1,
    KS_HOPPER_TURN = 2,                       /* and on, one a group */
    KS_HOPPER_GROUP = 2 + KS_HOPPER_GROUPS, /* and on, one a group */
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
};

/* WIDTH: the head's, up to the next multiple of 16. */
template <int WIDTH, int KEYS, int STAGES> struct ks_hopper_plan {
    enum {
        TILES = (WIDTH + 63) / 64,
        Q_TILE = 64 * 128, /* bytes of 64 channels of a group's queries */
        TILE = KEYS * 128, /* and of a stage's keys */
        STAGE = TILES * TILE,
        QUERIES = KS_HOPPER_GROUPS * TILES * Q_TILE
    };
    static constexpr size_t shared = QUERIES + 2 * STAGES * STAGE + 256;
};

struct ks_hopper_barriers {
    uint64_t queries, full_k[KS_HOPPER_MOST_STAGES], full_v[KS_HOPPER_MOST_STAGES],
        empty_k[KS_HOPPER_MOST_STAGES], empty_v[KS_HOPPER_MOST_STAGES];
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

/* The copying thread. */
template <int WIDTH, int KEYS, int STAGES>
__device__ __forceinline__ void ks_hopper_produce(const ks_hopper_job &hopper,
                                                  const ks_attention_share &share,
                                                  ks_hopper_barriers *barriers,
                                                  unsigned char *queries, unsigned char *k,
                                                  unsigned char *v)
{
    using plan = ks_hopper_plan<WIDTH, KEYS, STAGES>;
    ks_barrier_expect(&barriers->queries, plan::QUERIES);
    for (int group = 0; group < KS_HOPPER_GROUPS; group++)
        for (int t = 0; t < plan::TILES; t++)
            ks_tensor_load(queries + (group * plan::TILES + t) * plan::Q_TILE, &hopper.q,
                           &barriers->queries, t * 64, share.head, share.first + group * 64,
                           share.row);
    for (int first = 0, i = 0; first < share.keys; first += KEYS, i++) {
        const int stage = i % STAGES, parity = i / STAGES % 2 ^ 1;
        ks_barrier_wait(&barriers->empty_k[stage], (uint32_t)parity);
        ks_barrier_expect(&barriers->full_k[stage], plan::STAGE);
        for (int t = 0; t < plan::TILES; t++)
            ks_tensor_load(k + stage * plan::STAGE + t * plan::TILE, &hopper.k,
                           &barriers->full_k[stage], t * 64, share.head, first, share.kv_row);
        ks_barrier_wait(&barriers->empty_v[stage], (uint32_t)parity);
        ks_barrier_expect(&barriers->full_v[stage], plan::STAGE);
        for (int t = 0; t < plan::TILES; t++)
            ks_tensor_load(v + stage * plan::STAGE + t * plan::TILE, &hopper.v,
                           &barriers->full_v[stage], t * 64, share.head, first, share.kv_row);
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

/* A group with queries. */
template <class T, int WIDTH, int KEYS, int STAGES>
__device__ __forceinline__ void ks_hopper_consume(const ks_hopper_job &hopper,
                                                  const ks_attention_share &share, int group,
                                                  ks_hopper_barriers *barriers,
                                                  unsigned char *queries, unsigned char *k,
                                                  unsigned char *v)
{
    using plan = ks_hopper_plan<WIDTH, KEYS, STAGES>;
    const int thread = (int)threadIdx.x % 128, other = KS_HOPPER_TURN + (group ^ 1);
    const int my_query = share.first + group * 64 + thread / 32 * 16 + thread % 32 / 4;
    const bool first_lane = thread % 32 == 0;
    const int blocks = (share.keys + KEYS - 1) / KEYS;
    const bool cut = share.keys < hopper.job.kv_tokens && share.keys % KEYS != 0;
    const float log_scale = hopper.job.scale * 1.44269504088896340736f;
    unsigned char *q = queries + group * plan::TILES * plan::Q_TILE;

    float score[1][KEYS / 8][4], out[1][WIDTH / 8][4] = {}, factor[1][2];
    uint32_t weight[KEYS / 16][4];
    ks_softmax<1> softmax;
    ks_softmax_open(softmax);
    const auto soften = [&](int i) {
        const int keys = share.keys - i * KEYS;
        const int reach = hopper.job.causal ? my_query + 1 - i * KEYS : INT_MAX - 64;
        if (keys < KEYS || hopper.job.causal)
            ks_softmax_mask(score, keys, reach);
        ks_softmax_step(score, softmax, log_scale, factor);
    };
    const auto keep_weights = [&]() {
#pragma unroll
        for (int g = 0; g < KEYS / 16; g++)
            ks_softmax_operand<T>(weight[g], score[0], g);
    };
    const auto await_values = [&](int i) {
        ks_barrier_wait(&barriers->full_v[i % STAGES], (uint32_t)(i / STAGES % 2));
        if (cut && i == blocks - 1)
            ks_hopper_clear<WIDTH, KEYS, KS_HOPPER_USERS>(v + i % STAGES * plan::STAGE,
                                                          share.keys - i * KEYS,
                                                          (int)threadIdx.x - 128);
    };

    ks_barrier_wait(&barriers->queries, 0);
    if (blocks > 0) {
        ks_barrier_wait(&barriers->full_k[0], 0);
        ks_wgmma_fence();
        ks_hopper_scores<T, WIDTH, KEYS>(score[0], q, k);
        if (group == 1 && blocks > 1)
            ks_threads_arrive(other, KS_HOPPER_USERS); /* group 0 has the first turn */
        ks_wgmma_wait<0>();
        ks_wgmma_settle(score[0]);
        if (first_lane)
            ks_barrier_arrive(&barriers->empty_k[0]);
        soften(0);
        keep_weights();
    }
    for (int i = 1; i < blocks; i++) {
        const int stage = i % STAGES, before = (i - 1) % STAGES;
        ks_barrier_wait(&barriers->full_k[stage], (uint32_t)(i / STAGES % 2));
        await_values(i - 1);
        ks_threads_wait(KS_HOPPER_TURN + group, KS_HOPPER_USERS);
        ks_wgmma_fence();
        ks_hopper_scores<T, WIDTH, KEYS>(score[0], q, k + stage * plan::STAGE);
        ks_hopper_values<T, WIDTH, KEYS>(out[0], weight, v + before * plan::STAGE, true);
        if (group == 0 || i + 1 < blocks)
            ks_threads_arrive(other, KS_HOPPER_USERS);
        ks_wgmma_wait<1>();
        ks_wgmma_settle(score[0]);
        if (first_lane)
            ks_barrier_arrive(&barriers->empty_k[stage]);
        soften(i);
        ks_wgmma_wait<0>();
        ks_wgmma_settle(out[0]);
        if (first_lane)
            ks_barrier_arrive(&barriers->empty_v[before]);
        ks_softmax_scale(out, factor);
        keep_weights();
    }
    if (blocks > 0) {
        await_values(blocks - 1);
        ks_wgmma_fence();
        ks_hopper_values<T, WIDTH, KEYS>(out[0], weight, v + (blocks - 1) % STAGES * plan::STAGE,
                                         true);
        ks_wgmma_wait<0>();
        ks_wgmma_settle(out[0]);
    }
    ks_softmax_close(softmax, factor);
    ks_softmax_scale(out, factor);
    ks_hopper_store<T, WIDTH>(hopper, share.row, share.head, share.first + group * 64,
                              KS_HOPPER_GROUP + group, q, out[0]);
    if (thread == 0)
        ks_tensor_store_wait();
}

#endif

template <class T, int WIDTH, int KEYS, int STAGES>
__global__ void __launch_bounds__(KS_HOPPER_BOUND, 1) ks_attention_hopper(
    const __grid_constant__ ks_hopper_job hopper)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using plan = ks_hopper_plan<WIDTH, KEYS, STAGES>;
    unsigned char *queries = ks_shared, *k = queries + plan::QUERIES;
    unsigned char *v = k + STAGES * plan::STAGE;
    ks_hopper_barriers *barriers =
        reinterpret_cast<ks_hopper_barriers *>(v + STAGES * plan::STAGE);
    const ks_attention_share share =
        ks_attention_share_of(hopper.job, (int)blockIdx.z, (int)blockIdx.y,
                              (int)blockIdx.x * KS_HOPPER_QUERIES, KS_HOPPER_QUERIES);
    if (threadIdx.x == 0) {
        ks_barrier_init(&barriers->queries, 1);
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
            ks_hopper_produce<WIDTH, KEYS, STAGES>(hopper, share, barriers, queries, k, v);
    } else {
        ks_registers_raise<240>();
        ks_hopper_consume<T, WIDTH, KEYS, STAGES>(hopper, share, (int)threadIdx.x / 128 - 1,
                                                  barriers, queries, k, v);
    }
#endif
}

#endif
