/* Attention with mma.sync for heads up to 160 wide (FlashAttention-2, Dao 2023, arXiv 2307.08691).
 *
 * A block has four warps and 64 * TILES queries of one head; each warp keeps its queries, their
 * sums and the softmax in registers and walks over all keys, KEYS at a time. cp.async brings the
 * next keys and values while these are used. Rows in shared memory are 16 bytes longer than the
 * head, an odd number of 16-byte units, so that the eight rows of an 8 x 8 matrix lie in eight
 * different groups of banks. */
#ifndef KS_KERNELS_ATTENTION_MMA_CUH
#define KS_KERNELS_ATTENTION_MMA_CUH

#include "attention_job.cuh"

enum { KS_ATTENTION_THREADS = 128 };

extern __shared__ __align__(1024) unsigned char ks_shared[];

/* A 16-byte unit of a token's head, from element `from` on; one of width - from elements when the
 * memory is not aligned. Zeros when not inside. */
template <class T>
__device__ __forceinline__ void ks_attention_load_unit(T *to, const T *from, bool inside, int left,
                                                       bool vectors)
{
    if (vectors) {
        ks_cp_async16(to, from, inside);
        return;
    }
    alignas(16) T unit[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        unit[i] = inside && i < left ? from[i] : T(0.0f);
    *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(unit);
}

/* Tokens [0, ROWS), elements [0, COLUMNS) of a head, to rows of PITCH elements; zeros past rows
 * tokens and width elements. from: valid even when rows <= 0. */
template <class T, int ROWS, int COLUMNS, int PITCH>
__device__ __forceinline__ void ks_attention_load(T *to, const T *from, int64_t stride, int rows,
                                                  int width, bool vectors)
{
    constexpr int UNITS = COLUMNS / 8;
#pragma unroll 4
    for (int i = (int)threadIdx.x; i < ROWS * UNITS; i += KS_ATTENTION_THREADS) {
        const int row = i / UNITS, column = i % UNITS * 8;
        const bool inside = row < rows && column < width;
        ks_attention_load_unit(to + row * PITCH + column,
                               inside ? from + row * stride + column : from, inside,
                               width - column, vectors);
    }
}

/* score += q k^T for one 16-wide slice: q's fragments, and keys at k (its first row and slice). */
template <class T, int TILES, int KEYS, int PITCH>
__device__ __forceinline__ void ks_attention_scores(float (&score)[TILES][KEYS / 8][4],
                                                    const uint32_t (&q)[TILES][4], const T *k,
                                                    int keys)
{
    const int lane = (int)threadIdx.x % 32;
    const T *address = k + (lane / 16 * 8 + lane % 8) * PITCH + lane / 8 % 2 * 8;
#pragma unroll
    for (int g = 0; g < KEYS / 16; g++)
        if (g * 16 < keys) {
            uint32_t b[4];
            ks_ldmatrix(b, address + g * 16 * PITCH);
#pragma unroll
            for (int t = 0; t < TILES; t++) {
                ks_mma<T>(score[t][2 * g], q[t], b[0], b[1]);
                ks_mma<T>(score[t][2 * g + 1], q[t], b[2], b[3]);
            }
        }
}

/* out += weights v, for COLUMNS columns of v and the keys in `keys`. */
template <class T, int TILES, int KEYS, int COLUMNS, int PITCH>
__device__ __forceinline__ void ks_attention_values(float (&out)[TILES][COLUMNS / 8][4],
                                                    const float (&weight)[TILES][KEYS / 8][4],
                                                    const T *v, int keys)
{
    const int lane = (int)threadIdx.x % 32;
    const T *address = v + lane % 16 * PITCH + lane / 16 * 8;
#pragma unroll
    for (int g = 0; g < KEYS / 16; g++)
        if (g * 16 < keys) {
            uint32_t a[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; t++)
                ks_softmax_operand<T>(a[t], weight[t], g);
#pragma unroll
            for (int d = 0; d < COLUMNS / 16; d++) {
                uint32_t b[4];
                ks_ldmatrix_transposed(b, address + g * 16 * PITCH + d * 16);
#pragma unroll
                for (int t = 0; t < TILES; t++) {
                    ks_mma<T>(out[t][2 * d], a[t], b[0], b[1]);
                    ks_mma<T>(out[t][2 * d + 1], a[t], b[2], b[3]);
                }
            }
        }
}

/* A warp's 16 * TILES finished queries to memory by way of its own rows of shared memory. rows,
 * width: how many tokens and channels are there. */
template <class T, int TILES, int COLUMNS, int PITCH>
__device__ __forceinline__ void ks_attention_store(T *y, int64_t stride, int rows, int width,
                                                   bool vectors, T *shared,
                                                   const float (&out)[TILES][COLUMNS / 8][4])
{
    const int lane = (int)threadIdx.x % 32;
    T *mine = shared + lane / 4 * PITCH + lane % 4 * 2;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                *reinterpret_cast<uint32_t *>(mine + (t * 16 + h * 8) * PITCH + j * 8) =
                    ks_pack<T>(out[t][j][2 * h], out[t][j][2 * h + 1]);
    __syncwarp();
    constexpr int UNITS = COLUMNS / 8;
    for (int i = lane; i < 16 * TILES * UNITS; i += 32) {
        const int row = i / UNITS, column = i % UNITS * 8;
        if (row >= rows || column >= width)
            continue;
        const T *from = shared + row * PITCH + column;
        T *to = y + row * stride + column;
        if (vectors)
            *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
        else
            for (int e = 0; e < 8 && column + e < width; e++)
                to[e] = from[e];
    }
}

template <int WIDTH, int TILES, int KEYS> struct ks_attention_mma_plan {
    enum { PITCH = WIDTH + 8, QUERIES = 64 * TILES, STAGE = KEYS * PITCH };
    static constexpr size_t shared = 2u * (QUERIES * PITCH + 4 * STAGE); /* two bytes an element */
};

template <class T, int WIDTH, int TILES, int KEYS>
__global__ void __launch_bounds__(KS_ATTENTION_THREADS, 2) ks_attention_mma(
    const __grid_constant__ ks_attention_job job)
{
    using plan = ks_attention_mma_plan<WIDTH, TILES, KEYS>;
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const ks_attention_share share =
        ks_attention_share_of(job, (int)blockIdx.z, (int)blockIdx.y,
                              (int)blockIdx.x * plan::QUERIES, plan::QUERIES);
    const bool vectors = job.vectors != 0;
    T *q_shared = reinterpret_cast<T *>(ks_shared);
    T *k_shared = q_shared + plan::QUERIES * plan::PITCH;
    T *v_shared = k_shared + 2 * plan::STAGE;
    const T *k = ks_attention_head<T>(job.k, job.k_stride, job.kv_tokens, share.kv_row, share.head,
                                      job.width);
    const T *v = ks_attention_head<T>(job.v, job.v_stride, job.kv_tokens, share.kv_row, share.head,
                                      job.width);
    const auto load_keys = [&](int first, int stage) {
        const int rows = share.keys - first;
        ks_attention_load<T, KEYS, WIDTH, plan::PITCH>(k_shared + stage * plan::STAGE,
                                                       k + first * job.k_stride, job.k_stride,
                                                       rows, job.width, vectors);
        ks_attention_load<T, KEYS, WIDTH, plan::PITCH>(v_shared + stage * plan::STAGE,
                                                       v + first * job.v_stride, job.v_stride,
                                                       rows, job.width, vectors);
        ks_cp_async_commit();
    };

    const T *q = ks_attention_head<T>(job.q, job.q_stride, job.q_tokens, share.row, share.head,
                                      job.width);
    ks_attention_load<T, plan::QUERIES, WIDTH, plan::PITCH>(
        q_shared, q + share.first * job.q_stride, job.q_stride, job.q_tokens - share.first,
        job.width, vectors);
    load_keys(0, 0);
    ks_cp_async_wait<0>();
    __syncthreads();
    T *q_warp = q_shared + warp * 16 * TILES * plan::PITCH;
    uint32_t query[WIDTH / 16][TILES][4];
#pragma unroll
    for (int d = 0; d < WIDTH / 16; d++)
#pragma unroll
        for (int t = 0; t < TILES; t++)
            ks_ldmatrix(query[d][t],
                        q_warp + (t * 16 + lane % 16) * plan::PITCH + d * 16 + lane / 16 * 8);

    float out[TILES][WIDTH / 8][4] = {};
    ks_softmax<TILES> softmax;
    ks_softmax_open(softmax);
    const float log_scale = job.scale * 1.44269504088896340736f;
    const int my_query = share.first + warp * 16 * TILES + lane / 4;
    const auto attend = [&](int keys, int reach, bool masked, int stage) {
        float score[TILES][KEYS / 8][4] = {}, factor[TILES][2];
#pragma unroll
        for (int d = 0; d < WIDTH / 16; d++)
            ks_attention_scores<T, TILES, KEYS, plan::PITCH>(
                score, query[d], k_shared + stage * plan::STAGE + d * 16, keys);
        if (masked)
            ks_softmax_mask(score, keys, reach);
        ks_softmax_step(score, softmax, log_scale, factor);
        ks_softmax_scale(out, factor);
        ks_attention_values<T, TILES, KEYS, WIDTH, plan::PITCH>(
            out, score, v_shared + stage * plan::STAGE, keys);
    };

    for (int first = 0, stage = 0; first < share.keys; first += KEYS, stage ^= 1) {
        ks_cp_async_wait<0>();
        __syncthreads(); /* these keys are here, and nobody still reads the other stage */
        if (first + KEYS < share.keys)
            load_keys(first + KEYS, stage ^ 1);
        const int reach = job.causal ? my_query + 1 - first : INT_MAX - 64;
        if (first + KEYS <= share.keys && (!job.causal || first + KEYS <= share.first + 1))
            attend(KEYS, KEYS, false, stage);
        else
            attend(share.keys - first, reach, true, stage);
    }

    float factor[TILES][2];
    ks_softmax_close(softmax, factor);
    ks_softmax_scale(out, factor);
    const int row = share.first + warp * 16 * TILES;
    T *y = ks_attention_head<T>(job.y, job.y_stride, job.q_tokens, share.row, share.head,
                                job.width);
    ks_attention_store<T, TILES, WIDTH, plan::PITCH>(y + row * job.y_stride, job.y_stride,
                                                     job.q_tokens - row, job.width, vectors, q_warp,
                                                     out);
}

#endif
