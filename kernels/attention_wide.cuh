/* Attention with mma.sync for heads of 161 to 512 channels (the VAE's one head).
 *
 * The sums of a whole head would not fit in registers, so a block makes 128 of the head's output
 * channels for 64 queries and computes the scores for itself: a head of 512 costs
 * (4 * 512 + 512) / (2 * 512) = 2.5 times the least operations. The queries stay in shared memory;
 * keys and values come in pieces of 64 tokens by 64 channels through a ring of three stages. */
#ifndef KS_KERNELS_ATTENTION_WIDE_CUH
#define KS_KERNELS_ATTENTION_WIDE_CUH

#include "attention_mma.cuh"

enum {
    KS_WIDE_QUERIES = 64,
    KS_WIDE_KEYS = 64,
    KS_WIDE_PIECE = 64,   /* channels */
    KS_WIDE_COLUMNS = 128, /* of the output, a block */
    KS_WIDE_STAGES = 3,
    KS_WIDE_PITCH = KS_WIDE_PIECE + 8,
    KS_WIDE_STAGE = KS_WIDE_KEYS * KS_WIDE_PITCH
};

__host__ __device__ inline int ks_wide_pieces(int width)
{
    return (width + KS_WIDE_PIECE - 1) / KS_WIDE_PIECE;
}

inline size_t ks_wide_shared(int width)
{
    const int q_elements = KS_WIDE_QUERIES * KS_WIDE_PITCH * ks_wide_pieces(width);
    return 2u * (size_t)(q_elements + KS_WIDE_STAGES * KS_WIDE_STAGE);
}

/* The ring: piece i is piece i % (pieces + 2) of key block i / (pieces + 2): first the keys'
 * pieces, then the block's two pieces of the values. */
template <class T> struct ks_wide_ring {
    const T *k, *v;
    int64_t k_stride, v_stride;
    int keys, width, pieces, column;
    bool vectors;
    T *stages;

    __device__ __forceinline__ void load(int i) const
    {
        const int first = i / (pieces + 2) * KS_WIDE_KEYS, part = i % (pieces + 2);
        if (first < keys) {
            const bool is_key = part < pieces;
            const int channel = is_key ? part * KS_WIDE_PIECE
                                       : column + (part - pieces) * KS_WIDE_PIECE;
            const int64_t stride = is_key ? k_stride : v_stride;
            const int safe = channel < width ? channel : 0;
            ks_attention_load<T, KS_WIDE_KEYS, KS_WIDE_PIECE, KS_WIDE_PITCH>(
                stages + i % KS_WIDE_STAGES * KS_WIDE_STAGE,
                (is_key ? k : v) + first * stride + safe, stride, keys - first, width - channel,
                vectors);
        }
        ks_cp_async_commit();
    }

    /* Piece i, once it is here; starts the one after next. */
    __device__ __forceinline__ const T *take(int i) const
    {
        ks_cp_async_wait<1>();
        __syncthreads();
        load(i + 2);
        return stages + i % KS_WIDE_STAGES * KS_WIDE_STAGE;
    }
};

template <class T>
__global__ void __launch_bounds__(KS_ATTENTION_THREADS, 2) ks_attention_wide(
    const __grid_constant__ ks_attention_job job)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const int slices = (job.width + KS_WIDE_COLUMNS - 1) / KS_WIDE_COLUMNS;
    const ks_attention_share share = ks_attention_share_of(
        job, (int)blockIdx.z, (int)blockIdx.y / slices, (int)blockIdx.x * KS_WIDE_QUERIES,
        KS_WIDE_QUERIES);
    const int pieces = ks_wide_pieces(job.width);
    const int column = (int)blockIdx.y % slices * KS_WIDE_COLUMNS;
    const bool vectors = job.vectors != 0;
    T *q_shared = reinterpret_cast<T *>(ks_shared);
    const ks_wide_ring<T> ring = {
        ks_attention_head<T>(job.k, job.k_stride, job.kv_tokens, share.kv_row, share.head,
                             job.width),
        ks_attention_head<T>(job.v, job.v_stride, job.kv_tokens, share.kv_row, share.head,
                             job.width),
        job.k_stride, job.v_stride, share.keys, job.width, pieces, column, vectors,
        q_shared + KS_WIDE_QUERIES * KS_WIDE_PITCH * pieces};

    const T *q = ks_attention_head<T>(job.q, job.q_stride, job.q_tokens, share.row, share.head,
                                      job.width);
    for (int p = 0; p < pieces; p++)
        ks_attention_load<T, KS_WIDE_QUERIES, KS_WIDE_PIECE, KS_WIDE_PITCH>(
            q_shared + p * KS_WIDE_QUERIES * KS_WIDE_PITCH,
            q + share.first * job.q_stride + p * KS_WIDE_PIECE, job.q_stride,
            job.q_tokens - share.first, job.width - p * KS_WIDE_PIECE, vectors);
    ring.load(0); /* in one group with the queries */
    ring.load(1);
    T *q_warp = q_shared + warp * 16 * KS_WIDE_PITCH;

    float out[2][1][KS_WIDE_PIECE / 8][4] = {};
    ks_softmax<1> softmax;
    ks_softmax_open(softmax);
    const float log_scale = job.scale * 1.44269504088896340736f;
    const int my_query = share.first + warp * 16 + lane / 4;
    int piece = 0;
    for (int first = 0; first < share.keys; first += KS_WIDE_KEYS) {
        const int keys = share.keys - first;
        float score[1][KS_WIDE_KEYS / 8][4] = {}, factor[1][2];
        for (int p = 0; p < pieces; p++) {
            const T *k = ring.take(piece++);
#pragma unroll
            for (int d = 0; d < KS_WIDE_PIECE / 16; d++) {
                uint32_t query[1][4];
                ks_ldmatrix(query[0], q_warp + p * KS_WIDE_QUERIES * KS_WIDE_PITCH +
                                          lane % 16 * KS_WIDE_PITCH + d * 16 + lane / 16 * 8);
                ks_attention_scores<T, 1, KS_WIDE_KEYS, KS_WIDE_PITCH>(score, query, k + d * 16,
                                                                       keys);
            }
        }
        if (keys < KS_WIDE_KEYS || job.causal)
            ks_softmax_mask(score, keys, job.causal ? my_query + 1 - first : INT_MAX - 64);
        ks_softmax_step(score, softmax, log_scale, factor);
#pragma unroll
        for (int p = 0; p < 2; p++) {
            const T *v = ring.take(piece++);
            ks_softmax_scale(out[p], factor);
            ks_attention_values<T, 1, KS_WIDE_KEYS, KS_WIDE_PIECE, KS_WIDE_PITCH>(out[p], score, v,
                                                                                  keys);
        }
    }
    ks_cp_async_wait<0>();
    __syncthreads(); /* the queries are here, even where there was no key */

    float factor[1][2];
    ks_softmax_close(softmax, factor);
    const int row = share.first + warp * 16;
    T *y = ks_attention_head<T>(job.y, job.y_stride, job.q_tokens, share.row, share.head,
                                job.width);
#pragma unroll
    for (int p = 0; p < 2; p++) {
        const int channel = column + p * KS_WIDE_PIECE;
        ks_softmax_scale(out[p], factor);
        ks_attention_store<T, 1, KS_WIDE_PIECE, KS_WIDE_PITCH>(
            y + row * job.y_stride + channel, job.y_stride, job.q_tokens - row,
            job.width - channel, vectors, q_warp, out[p]);
        __syncwarp();
    }
}

#endif
