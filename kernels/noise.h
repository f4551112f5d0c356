/* torch's random normals, and sums of them: see backend/noise.h. Two launches: the words of the CPU generator's draws, for
 * which a block walks along each draw, then every element of every operation by itself. */
#ifndef KS_KERNELS_NOISE_H
#define KS_KERNELS_NOISE_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Words of an MT19937 stream: `skip` are passed over, `count` go to out, tempered. state, if not NULL, is read unless fresh,
 * and left behind the last word; a fresh one begins with the seed. */
typedef struct ks_cuda_walk {
    uint32_t *out, *state;
    int64_t skip, count;
    uint32_t seed;
    bool fresh;
} ks_cuda_walk;

/* A draw with its place in the two sums. words: of the CPU generator, else NULL. */
typedef struct ks_cuda_draw_term {
    double plus, minus;
    uint64_t seed;
    const uint32_t *words;
} ks_cuda_draw_term;

/* Pairs [first, first + pairs) of an operation's elements; its terms are term[terms_at ...], one where `whole`: the draw as it
 * is. */
typedef struct ks_cuda_draw {
    float *out;
    const float *base;
    int64_t n, first, pairs;
    double scale, base_coef;
    uint64_t block;  /* Philox: the first one */
    int64_t threads; /* torch's, for Philox; 0: the words of MT19937, those of the draw's words from 2 * first on */
    int32_t terms_at, terms;
    bool whole;
} ks_cuda_draw;

/* All arrays: device. most: the largest number of pairs. Bound by integer and double arithmetic: about 130 operations a
 * pair and term. */
int ks_cuda_draw_words(void *stream, const ks_cuda_walk *draw, int draws);
int ks_cuda_draw_sums(void *stream, const ks_cuda_draw *op, int ops, const ks_cuda_draw_term *term, int64_t most);

#ifdef __cplusplus
}
#endif

#endif
