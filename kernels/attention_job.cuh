/* What the attention kernels share: the job, the block's share of it, and the softmax that is
 * carried from one block of keys to the next (Milakov and Gimelshein 2018, arXiv 1805.02867; Dao
 * 2023, arXiv 2307.08691). */
#ifndef KS_KERNELS_ATTENTION_JOB_CUH
#define KS_KERNELS_ATTENTION_JOB_CUH

#include <float.h>

#include "mma.cuh"

struct ks_attention_job {
    const void *q, *k, *v;
    void *y;
    int64_t q_stride, k_stride, v_stride, y_stride; /* elements from token to token */
    int n, q_tokens, kv_tokens, heads, width;
    int causal;
    int vectors;                    /* every head of every token starts on 16 bytes */
    float scale;                    /* 1 / sqrt(width) */
    const int32_t *kv_row, *kv_len; /* or NULL */
};

/* Queries [first, first + some) of one head of one row. */
struct ks_attention_share {
    int row, head, first, kv_row;
    int keys; /* that any of the queries sees */
};

__device__ __forceinline__ ks_attention_share ks_attention_share_of(const ks_attention_job &job,
                                                                    int row, int head, int first,
                                                                    int queries)
{
    ks_attention_share s = {row, head, first, job.kv_row ? job.kv_row[row] : row, job.kv_tokens};
    if (job.kv_len)
        s.keys = max(0, min(s.keys, job.kv_len[s.kv_row]));
    if (job.causal)
        s.keys = min(s.keys, first + queries);
    return s;
}

/* The first channel of a head of token 0 of a row. */
template <class T>
__device__ __forceinline__ T *ks_attention_head(void *data, int64_t stride, int tokens, int row,
                                                int head, int width)
{
    return static_cast<T *>(data) + (int64_t)row * tokens * stride + (int64_t)head * width;
}

template <class T>
__device__ __forceinline__ const T *ks_attention_head(const void *data, int64_t stride, int tokens,
                                                      int row, int head, int width)
{
    return static_cast<const T *>(data) + (int64_t)row * tokens * stride + (int64_t)head * width;
}

/* Fragments of 16 queries each: a lane holds queries lane / 4 and lane / 4 + 8 of each. sum: of
 * this lane's keys alone until ks_softmax_close. */
template <int TILES> struct ks_softmax {
    float largest[TILES][2], sum[TILES][2];
};

template <int TILES> __device__ __forceinline__ void ks_softmax_open(ks_softmax<TILES> &softmax)
{
#pragma unroll
    for (int t = 0; t < TILES; t++)
        for (int h = 0; h < 2; h++) {
            softmax.largest[t][h] = -FLT_MAX; /* so that all scores may be -inf */
            softmax.sum[t][h] = 0.0f;
        }
}

/* Scores of keys from `keys` on, counted from the first key of the scores, become -inf. */
template <int TILES, int WIDE>
__device__ __forceinline__ void ks_softmax_end(float (&score)[TILES][WIDE][4], int keys)
{
    const int mine = keys - (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (j * 8 + e % 2 >= mine)
                    score[t][j][e] = -INFINITY;
}

/* Scores of keys from `keys` on, and for the lane's first query (causal) from `reach` on, become
 * -inf. Both count from the first key of the scores. */
template <int TILES, int WIDE>
__device__ __forceinline__ void ks_softmax_mask(float (&score)[TILES][WIDE][4], int keys, int reach)
{
    const int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                if (j * 8 + column + e % 2 >= min(keys, reach + t * 16 + e / 2 * 8))
                    score[t][j][e] = -INFINITY;
}

/* Scores become weights relative to the largest score so far; what was summed before is to be
 * multiplied by factor. log_scale: scale / ln 2, less than 1 where all scores may be -inf. */
template <int TILES, int WIDE>
__device__ __forceinline__ void ks_softmax_step(float (&score)[TILES][WIDE][4],
                                                ks_softmax<TILES> &softmax, float log_scale,
                                                float (&factor)[TILES][2])
{
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float largest = softmax.largest[t][h];
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                largest = fmaxf(largest, fmaxf(score[t][j][2 * h], score[t][j][2 * h + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
            factor[t][h] = ks_exp2((softmax.largest[t][h] - largest) * log_scale);
            softmax.largest[t][h] = largest;
            const float offset = largest * log_scale;
            float sum = 0.0f;
#pragma unroll
            for (int j = 0; j < WIDE; j++)
#pragma unroll
                for (int e = 2 * h; e < 2 * h + 2; e++) {
                    score[t][j][e] = ks_exp2(fmaf(score[t][j][e], log_scale, -offset));
                    sum += score[t][j][e];
                }
            softmax.sum[t][h] = fmaf(softmax.sum[t][h], factor[t][h], sum);
        }
}

/* What the sums over all keys are to be multiplied by; 0 where there was no key. */
template <int TILES>
__device__ __forceinline__ void ks_softmax_close(const ks_softmax<TILES> &softmax,
                                                 float (&factor)[TILES][2])
{
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            float sum = softmax.sum[t][h];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            factor[t][h] = sum > 0.0f ? 1.0f / sum : 0.0f;
        }
}

/* Scores of all keys there are become weights relative to the largest; what the weighted sums of
 * values are to be multiplied by then, 0 where no key is. */
template <int TILES, int WIDE>
__device__ __forceinline__ void ks_softmax_whole(float (&score)[TILES][WIDE][4], float log_scale,
                                                 float (&factor)[TILES][2])
{
    ks_softmax<TILES> softmax;
    ks_softmax_open(softmax);
    ks_softmax_step(score, softmax, log_scale, factor);
    ks_softmax_close(softmax, factor);
}

/* out *= factor, query by query. */
template <int TILES, int WIDE>
__device__ __forceinline__ void ks_softmax_scale(float (&out)[TILES][WIDE][4],
                                                 const float (&factor)[TILES][2])
{
#pragma unroll
    for (int t = 0; t < TILES; t++)
#pragma unroll
        for (int j = 0; j < WIDE; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                out[t][j][e] *= factor[t][e / 2];
}

/* The weights of keys [16 * g, 16 * g + 16) as the A operand of the product with v. */
template <class T, int WIDE>
__device__ __forceinline__ void ks_softmax_operand(uint32_t (&a)[4], const float (&score)[WIDE][4],
                                                   int g)
{
    a[0] = ks_pack<T>(score[2 * g][0], score[2 * g][1]);
    a[1] = ks_pack<T>(score[2 * g][2], score[2 * g][3]);
    a[2] = ks_pack<T>(score[2 * g + 1][0], score[2 * g + 1][1]);
    a[3] = ks_pack<T>(score[2 * g + 1][2], score[2 * g + 1][3]);
}

#endif
