/* Attention in plain fp32: no TF32, the exponential of the C library. A block of 256 threads makes
 * up to COLUMNS output channels of 64 queries of one head; thread (a, b) of 16 x 16 has queries
 * 4a..4a+3 against keys 4b..4b+3, then the same queries' channels b, b + 16, ... Wider heads take
 * several blocks, each computing the scores for itself. */
#ifndef KS_KERNELS_ATTENTION_F32_CUH
#define KS_KERNELS_ATTENTION_F32_CUH

#include "attention_mma.cuh"

enum {
    KS_F32_THREADS = 256,
    KS_F32_TOKENS = 64, /* queries of a block, and keys of a step */
    KS_F32_SLICE = 32,  /* channels of q and k in shared memory at a time */
    KS_F32_PITCH = KS_F32_TOKENS + 4
};

inline size_t ks_f32_shared(int columns)
{
    return sizeof(float) * (size_t)(KS_F32_PITCH * (2 * KS_F32_SLICE + KS_F32_TOKENS) +
                                    KS_F32_TOKENS * columns);
}

/* Tokens [0, rows) and KS_F32_SLICE channels from `channel` on, turned: to[channel][token]. */
__device__ __forceinline__ void ks_f32_load_turned(float *to, const float *from, int64_t stride,
                                                   int rows, int channel, int width)
{
    for (int i = (int)threadIdx.x; i < KS_F32_TOKENS * KS_F32_SLICE; i += KS_F32_THREADS) {
        const int row = i / KS_F32_SLICE, c = i % KS_F32_SLICE;
        to[c * KS_F32_PITCH + row] =
            row < rows && channel + c < width ? from[row * stride + channel + c] : 0.0f;
    }
}

/* score += q k^T over one slice, summed by itself first: long sums keep their last bits. */
__device__ __forceinline__ void ks_f32_scores(float (&score)[4][4], const float *q, const float *k)
{
    const int a = (int)threadIdx.x / 16 * 4, b = (int)threadIdx.x % 16 * 4;
    float part[4][4] = {};
#pragma unroll 8
    for (int c = 0; c < KS_F32_SLICE; c++) {
        const float4 x = *reinterpret_cast<const float4 *>(q + c * KS_F32_PITCH + a);
        const float4 z = *reinterpret_cast<const float4 *>(k + c * KS_F32_PITCH + b);
        const float query[4] = {x.x, x.y, x.z, x.w}, key[4] = {z.x, z.y, z.z, z.w};
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                part[i][j] = fmaf(query[i], key[j], part[i][j]);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            score[i][j] += part[i][j];
}

/* One step of the softmax for a query whose 64 scores 16 neighbouring lanes hold: scores become
 * weights; gives the factor for what was summed before. */
__device__ __forceinline__ float ks_f32_soften(float (&score)[4], float &largest, float &sum)
{
    float top = fmaxf(fmaxf(score[0], score[1]), fmaxf(score[2], score[3]));
#pragma unroll
    for (int apart = 8; apart; apart /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, apart));
    top = fmaxf(top, largest);
    const float factor = expf(largest - top);
    largest = top;
#pragma unroll
    for (int j = 0; j < 4; j++)
        score[j] = expf(score[j] - top);
    float part = (score[0] + score[1]) + (score[2] + score[3]);
#pragma unroll
    for (int apart = 8; apart; apart /= 2)
        part += __shfl_xor_sync(0xffffffffu, part, apart);
    sum = fmaf(sum, factor, part);
    return factor;
}

template <int COLUMNS>
__global__ void __launch_bounds__(KS_F32_THREADS, COLUMNS > 80 ? 1 : 2) ks_attention_f32(
    const __grid_constant__ ks_attention_job job)
{
    constexpr int MINE = COLUMNS / 16;
    const int a = (int)threadIdx.x / 16 * 4, b = (int)threadIdx.x % 16;
    const int slices = (job.width + COLUMNS - 1) / COLUMNS;
    const ks_attention_share share =
        ks_attention_share_of(job, (int)blockIdx.z, (int)blockIdx.y / slices,
                              (int)blockIdx.x * KS_F32_TOKENS, KS_F32_TOKENS);
    const int column = (int)blockIdx.y % slices * COLUMNS;
    float *q_shared = reinterpret_cast<float *>(ks_shared);
    float *k_shared = q_shared + KS_F32_PITCH * KS_F32_SLICE;
    float *weights = k_shared + KS_F32_PITCH * KS_F32_SLICE; /* [key][query] */
    float *v_shared = weights + KS_F32_PITCH * KS_F32_TOKENS; /* [key][column] */
    const float *q = ks_attention_head<float>(job.q, job.q_stride, job.q_tokens, share.row,
                                              share.head, job.width) + share.first * job.q_stride;
    const float *k = ks_attention_head<float>(job.k, job.k_stride, job.kv_tokens, share.kv_row,
                                              share.head, job.width);
    const float *v = ks_attention_head<float>(job.v, job.v_stride, job.kv_tokens, share.kv_row,
                                              share.head, job.width);
    float out[4][MINE] = {}, largest[4], sum[4] = {}, factor[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
        largest[i] = -INFINITY;

    for (int first = 0; first < share.keys; first += KS_F32_TOKENS) {
        const int keys = share.keys - first;
        float score[4][4] = {};
        for (int channel = 0; channel < job.width; channel += KS_F32_SLICE) {
            __syncthreads();
            ks_f32_load_turned(q_shared, q, job.q_stride, job.q_tokens - share.first, channel,
                               job.width);
            ks_f32_load_turned(k_shared, k + first * job.k_stride, job.k_stride, keys, channel,
                               job.width);
            __syncthreads();
            ks_f32_scores(score, q_shared, k_shared);
        }
        for (int i = (int)threadIdx.x; i < KS_F32_TOKENS * COLUMNS; i += KS_F32_THREADS) {
            const int key = i / COLUMNS, c = i % COLUMNS;
            v_shared[i] = key < keys && column + c < job.width
                              ? v[(first + key) * job.v_stride + column + c]
                              : 0.0f;
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int seen = job.causal ? min(keys, share.first + a + i + 1 - first) : keys;
#pragma unroll
            for (int j = 0; j < 4; j++)
                score[i][j] = 4 * b + j < seen ? score[i][j] * job.scale : -INFINITY;
            factor[i] = ks_f32_soften(score[i], largest[i], sum[i]);
#pragma unroll
            for (int j = 0; j < 4; j++)
                weights[(4 * b + j) * KS_F32_PITCH + a + i] = score[i][j];
        }
        __syncthreads();
        float part[4][MINE] = {}; /* these keys alone, as in ks_f32_scores */
        for (int key = 0; key < min(keys, (int)KS_F32_TOKENS); key++) {
            const float4 w = *reinterpret_cast<const float4 *>(weights + key * KS_F32_PITCH + a);
            const float weight[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int c = 0; c < MINE; c++) {
                const float value = v_shared[key * COLUMNS + c * 16 + b];
#pragma unroll
                for (int i = 0; i < 4; i++)
                    part[i][c] = fmaf(weight[i], value, part[i][c]);
            }
        }
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int c = 0; c < MINE; c++)
                out[i][c] = fmaf(out[i][c], factor[i], part[i][c]);
    }

    float *y = ks_attention_head<float>(job.y, job.y_stride, job.q_tokens, share.row, share.head,
                                        job.width);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int query = share.first + a + i;
        const float inverse = sum[i] > 0.0f ? 1.0f / sum[i] : 0.0f;
#pragma unroll
        for (int c = 0; c < MINE; c++)
            if (query < job.q_tokens && column + c * 16 + b < job.width)
                y[query * job.y_stride + column + c * 16 + b] = out[i][c] * inverse;
    }
}

#endif
