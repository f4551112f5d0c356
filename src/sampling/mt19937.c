#include "sampling/mt19937.h"

#include <stddef.h>

#include "sampling/simd.h"

void ks_mt19937_seed(uint32_t state[KS_MT_WORDS], int *next, uint32_t seed)
{
    state[0] = seed;
    for (uint32_t i = 1; i < KS_MT_WORDS; i++)
        state[i] = ks_mt_seed_next(state[i - 1], i);
    *next = KS_MT_WORDS;
}

/* The next KS_MT_WORDS words of the recurrence, in place. Two loops and a last word, so that a
 * word's three sources are at fixed distances and the loops can run on vectors. */
KS_LOOP void twist_loop(uint32_t *s)
{
    enum { FIRST = KS_MT_WORDS - KS_MT_SHIFT };
    for (int i = 0; i < FIRST; i++)
        s[i] = s[i + KS_MT_SHIFT] ^ ks_mt_times_a(s[i], s[i + 1]);
    for (int i = FIRST; i < KS_MT_WORDS - 1; i++)
        s[i] = s[i - FIRST] ^ ks_mt_times_a(s[i], s[i + 1]);
    s[KS_MT_WORDS - 1] = s[KS_MT_SHIFT - 1] ^ ks_mt_times_a(s[KS_MT_WORDS - 1], s[0]);
}

KS_LOOP void temper_loop(const uint32_t *restrict s, uint32_t *restrict out, int count)
{
    for (int i = 0; i < count; i++)
        out[i] = ks_mt_temper(s[i]);
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
