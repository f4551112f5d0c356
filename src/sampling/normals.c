#include "sampling/normals.h"

#include <string.h>

#include "sampling/simd.h"

enum { PAIRS = KS_NORMAL_BLOCKS * KS_NORMAL_BLOCK / 2 };
_Static_assert((int)KS_PHILOX_THREADS == (int)PAIRS, "one chunk size for both generators");

KS_LOOP void box_muller(const float *restrict u, const float *restrict angle, double unit,
                        float *restrict sine, float *restrict cosine, int count)
{
    for (int i = 0; i < count; i++)
        ks_box_muller(u[i], angle[i], unit, &sine[i], &cosine[i]);
}

KS_LOOP void normal_blocks_loop(const uint32_t *restrict words, float *restrict out, int blocks)
{
    float u[PAIRS], angle[PAIRS], sine[PAIRS], cosine[PAIRS];
    for (int b = 0; b < blocks; b++)
        for (int j = 0; j < 8; j++) {
            u[8 * b + j] = ks_block_u(words[16 * b + j]);
            angle[8 * b + j] = ks_block_angle(words[16 * b + 8 + j]);
        }
    box_muller(u, angle, 1.0, sine, cosine, 8 * blocks);
    for (int b = 0; b < blocks; b++) {
        memcpy(out + 16 * b, cosine + 8 * b, 8 * sizeof *out);
        memcpy(out + 16 * b + 8, sine + 8 * b, 8 * sizeof *out);
    }
}

KS_DISPATCH(normal_blocks, (const uint32_t *words, float *out, int blocks), (words, out, blocks))

void ks_normal_blocks(const uint32_t *words, float *out, int blocks)
{
    normal_blocks(words, out, blocks);
}

KS_LOOP void pair_loop(const uint32_t *restrict radius_word, const uint32_t *restrict angle_word,
                       float *restrict sine, float *restrict cosine, int count)
{
    float u[PAIRS], turns[PAIRS];
    for (int i = 0; i < count; i++) {
        u[i] = ks_philox_u(radius_word[i]);
        turns[i] = ks_philox_turns(angle_word[i]);
    }
    box_muller(u, turns, KS_TWO_PI, sine, cosine, count);
}

KS_DISPATCH(pair, (const uint32_t *radii, const uint32_t *angles, float *sine, float *cosine,
                   int n), (radii, angles, sine, cosine, n))

void ks_philox_normals(uint64_t seed, uint64_t block, uint32_t first, int count, int rows,
                       float out[4][KS_PHILOX_THREADS])
{
    uint32_t words[4][KS_PHILOX_THREADS];
    ks_philox_words(seed, block, first, count, words);
    for (int row = 0; row < rows; row += 2)
        pair(words[row], words[row + 1], out[row], out[row + 1], count);
}
