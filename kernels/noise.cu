/* torch's random normals. This file is compiled without fused multiply-adds: generators.h says why. */
#include "kernels/noise.h"

#include "backend/generators.h"
#include "kernels/types.cuh"

namespace {

using namespace ks;

/* --- MT19937 ---
 *
 * Word i of the next 624 comes from words i, i + 1 and i + 397 of the last, or, where i + 397 goes beyond them, from word i -
 * 227 of the next. So thread t makes words t, t + 227 and t + 454, each from the one before; word 623 also looks at the next
 * ones' word 0, which its thread makes for itself. One barrier for 624 words. */

constexpr int stride = KS_MT_WORDS - KS_MT_SHIFT; /* 227 */
constexpr int walkers = 256;
constexpr int last_word = KS_MT_WORDS - 1, last_walker = last_word - 2 * stride; /* 169 */

/* A draw's words on their way to memory: those numbered from 0 to count - 1. */
struct sink {
    uint32_t *out;
    int64_t count;

    __device__ void put(int64_t number, uint32_t word) const
    {
        if (number >= 0 && number < count)
            out[number] = ks_mt_temper(word);
    }
};

/* The next 624 words from `old` into `next`; word 0 of them has the number `base`. */
__device__ void walk(const uint32_t *old, uint32_t *next, int t, int64_t base, const sink &to)
{
    if (t >= stride)
        return;
    uint32_t word = old[t + KS_MT_SHIFT] ^ ks_mt_times_a(old[t], old[t + 1]);
    next[t] = word;
    to.put(base + t, word);
    word ^= ks_mt_times_a(old[t + stride], old[t + stride + 1]);
    next[t + stride] = word;
    to.put(base + t + stride, word);
    if (t > last_walker)
        return;
    const int i = t + 2 * stride;
    const uint32_t after =
        i < last_word ? old[i + 1] : old[KS_MT_SHIFT] ^ ks_mt_times_a(old[0], old[1]);
    word ^= ks_mt_times_a(old[i], after);
    next[i] = word;
    to.put(base + i, word);
}

/* The seeded state: each word from the one before. */
__device__ void sow(uint32_t *state, uint32_t seed)
{
    state[0] = seed;
    for (uint32_t i = 1; i < KS_MT_WORDS; i++)
        state[i] = seed = ks_mt_seed_next(seed, i);
}

/* A block a draw. `base` is the number of the state's word 0, counted from the draw's first word that is wanted. */
__global__ void __launch_bounds__(walkers) walk_along(const ks_cuda_walk *draws)
{
    __shared__ uint32_t state[2][KS_MT_WORDS];
    const ks_cuda_walk draw = draws[blockIdx.x];
    const int t = static_cast<int>(threadIdx.x);
    const sink to = {draw.out, draw.count};
    if (draw.count == 0)
        return;
    int64_t base = -draw.skip - KS_MT_WORDS; /* a seeded state's words are all used up */
    if (draw.fresh) {
        if (t == 0)
            sow(state[0], draw.seed);
        __syncthreads();
    } else {
        const int64_t used = draw.state[KS_MT_WORDS];
        base = -draw.skip - used;
        for (int i = t; i < KS_MT_WORDS; i += walkers) {
            state[0][i] = draw.state[i];
            if (i >= used)
                to.put(base + i, state[0][i]);
        }
        __syncthreads();
    }
    int now = 0;
    for (; base + KS_MT_WORDS < draw.count; now ^= 1) {
        base += KS_MT_WORDS;
        walk(state[now], state[now ^ 1], t, base, to);
        __syncthreads();
    }
    if (!draw.state)
        return;
    for (int i = t; i < KS_MT_WORDS; i += walkers)
        draw.state[i] = state[now][i];
    if (t == 0)
        draw.state[KS_MT_WORDS] = static_cast<uint32_t>(draw.count - base);
}

/* --- elements --- */

constexpr int threads = 256;

/* A pair of elements: where each goes (-1: nowhere), and what of the generator it is made from. */
struct pair {
    int64_t sine, cosine;
    int64_t word;    /* MT19937: of the radius, 8 before that of the angle */
    uint64_t block;  /* Philox */
    uint32_t thread; /* Philox */
    bool upper;      /* Philox: words 2 and 3 of the counter */
};

/* Pair p of a draw of MT19937: one of the 8 of a block of 16 elements, whose first 8 are the cosines. A ragged end is made
 * again, with the 16 elements before the end, from 16 further words. */
__device__ pair block_pair(const ks_cuda_draw &op, int64_t p)
{
    const int64_t block = p / 8, j = p % 8, whole = op.n / KS_NORMAL_BLOCK;
    const bool ragged = op.n % KS_NORMAL_BLOCK != 0, last = block == whole;
    const int64_t start = last ? op.n - KS_NORMAL_BLOCK : block * KS_NORMAL_BLOCK;
    const int64_t end = ragged && !last ? op.n - KS_NORMAL_BLOCK : op.n;
    pair at = {};
    at.cosine = start + j < end ? start + j : -1;
    at.sine = start + 8 + j < end ? start + 8 + j : -1;
    at.word = (last ? op.n : block * KS_NORMAL_BLOCK) + j - 2 * op.first;
    return at;
}

/* Pair p of torch's CUDA generator: values 0 and 1, or 2 and 3, of a thread in a round. */
__device__ pair philox_pair(const ks_cuda_draw &op, int64_t p)
{
    const int64_t row = p / op.threads, thread = p % op.threads;
    pair at = {};
    at.sine = 2 * row * op.threads + thread;
    at.cosine = at.sine + op.threads;
    if (at.sine >= op.n)
        at.sine = -1;
    if (at.cosine >= op.n)
        at.cosine = -1;
    at.block = op.block + static_cast<uint64_t>(row / 2);
    at.thread = static_cast<uint32_t>(thread);
    at.upper = row % 2 != 0;
    return at;
}

__device__ void draw_pair(const ks_cuda_draw &op, const ks_cuda_draw_term &term, const pair &at,
                          float *sine, float *cosine)
{
    if (op.threads == 0) {
        ks_box_muller(ks_block_u(term.words[at.word]), ks_block_angle(term.words[at.word + 8]), 1.0,
                      sine, cosine);
        return;
    }
    uint32_t word[4];
    ks_philox(term.seed, at.block, at.thread, word);
    ks_box_muller(ks_philox_u(at.upper ? word[2] : word[0]),
                  ks_philox_turns(at.upper ? word[3] : word[1]), KS_TWO_PI, sine, cosine);
}

__device__ void finish(const ks_cuda_draw &op, int64_t i, double w)
{
    if (i < 0)
        return;
    double x = op.scale * w;
    if (op.base)
        x += op.base_coef * static_cast<double>(op.base[i]);
    op.out[i] = static_cast<float>(x);
}

__device__ void draw_whole(const ks_cuda_draw &op, const ks_cuda_draw_term *term, const pair &at)
{
    float sine, cosine;
    draw_pair(op, *term, at, &sine, &cosine);
    finish(op, at.sine, static_cast<double>(sine));
    finish(op, at.cosine, static_cast<double>(cosine));
}

__device__ void draw_sums(const ks_cuda_draw &op, const ks_cuda_draw_term *term, const pair &at)
{
    double plus[2] = {0.0, 0.0}, minus[2] = {0.0, 0.0};
    for (int k = 0; k < op.terms; k++) {
        float z[2];
        draw_pair(op, term[k], at, &z[0], &z[1]);
        for (int i = 0; i < 2; i++) {
            plus[i] += term[k].plus * static_cast<double>(z[i]);
            minus[i] += term[k].minus * static_cast<double>(z[i]);
        }
    }
    finish(op, at.sine, plus[0] - minus[0]);
    finish(op, at.cosine, plus[1] - minus[1]);
}

__global__ void __launch_bounds__(threads) draw(const ks_cuda_draw *ops, const ks_cuda_draw_term *terms)
{
    const ks_cuda_draw &op = ops[blockIdx.y];
    const ks_cuda_draw_term *term = terms + op.terms_at;
    const int64_t step = static_cast<int64_t>(gridDim.x) * threads;
    for (int64_t k = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; k < op.pairs; k += step) {
        const pair at = op.threads == 0 ? block_pair(op, op.first + k) : philox_pair(op, op.first + k);
        if (op.whole)
            draw_whole(op, term, at);
        else
            draw_sums(op, term, at);
    }
}

} // namespace

int ks_cuda_draw_words(void *stream, const ks_cuda_walk *draw, int draws)
{
    if (draws == 0)
        return cudaSuccess;
    walk_along<<<static_cast<unsigned>(draws), walkers, 0, stream_of(stream)>>>(draw);
    return cudaGetLastError();
}

int ks_cuda_draw_sums(void *stream, const ks_cuda_draw *op, int ops, const ks_cuda_draw_term *term, int64_t most)
{
    constexpr int64_t blocks_at_most = 4096;
    if (ops == 0 || most == 0)
        return cudaSuccess;
    const int64_t blocks = (most + threads - 1) / threads;
    const dim3 grid(static_cast<unsigned>(blocks < blocks_at_most ? blocks : blocks_at_most), static_cast<unsigned>(ops));
    draw<<<grid, threads, 0, stream_of(stream)>>>(op, term);
    return cudaGetLastError();
}
