#include "sampling/mt19937.h"

#include <stddef.h>

#include "sampling/simd.h"

enum { SHIFT_WORDS = 397 }; /* m of the recurrence */

void ks_mt19937_seed(uint32_t state[KS_MT_WORDS], int *next, uint32_t seed)
{
    state[0] = seed;
    for (uint32_t i = 1; i < KS_MT_WORDS; i++)
        state[i] = 1812433253u * (state[i - 1] ^ (state[i - 1] >> 30)) + i;
    *next = KS_MT_WORDS;
}

/* The upper bit of one word and the lower 31 of the next, times the recurrence's matrix A. */
KS_LOOP uint32_t times_a(uint32_t upper, uint32_t lower)
{
    uint32_t y = (upper & 0x80000000u) | (lower & 0x7fffffffu);
    return (y >> 1) ^ (0x9908b0dfu & (0u - (y & 1u)));
}

/* The next KS_MT_WORDS words of the recurrence, in place. Two loops and a last word, so that a
 * word's three sources are at fixed distances and the loops can run on vectors. */
KS_LOOP void twist_loop(uint32_t *s)
{
    enum { FIRST = KS_MT_WORDS - SHIFT_WORDS };
    for (int i = 0; i < FIRST; i++)
        s[i] = s[i + SHIFT_WORDS] ^ times_a(s[i], s[i + 1]);
    for (int i = FIRST; i < KS_MT_WORDS - 1; i++)
        s[i] = s[i - FIRST] ^ times_a(s[i], s[i + 1]);
    s[KS_MT_WORDS - 1] = s[SHIFT_WORDS - 1] ^ times_a(s[KS_MT_WORDS - 1], s[0]);
}

KS_LOOP void temper_loop(const uint32_t *restrict s, uint32_t *restrict out, int count)
{
    for (int i = 0; i < count; i++) {
        uint32_t y = s[i];
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c5680u;
        y ^= (y << 15) & 0xefc60000u;
        out[i] = y ^ (y >> 18);
    }
}

KS_DISPATCH(twist, (uint32_t *s), (s))
KS_DISPATCH(temper, (const uint32_t *s, uint32_t *out, int count), (s, out, count))

void ks_mt19937_words(uint32_t state[KS_MT_WORDS], int *next, uint32_t *out, int64_t count)
{
    while (count > 0) {
        if (*next == KS_MT_WORDS) {
            twist(state);
            *next = 0;
        }
        int left = KS_MT_WORDS - *next;
        int part = count < left ? (int)count : left;
        if (out) {
            temper(state + *next, out, part);
            out += part;
        }
        *next += part;
        count -= part;
    }
}
