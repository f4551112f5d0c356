#include <stddef.h>

#include "sampling/noise.h"

/* Hash of a seed into a pool of words: M. E. O'Neill, "Developing a seed_seq alternative" (2015),
 * as numpy's SeedSequence defines it (numpy reference, "Bit generators", SeedSequence). */

enum { POOL = 24, MAX_WORDS = POOL + 4 };

typedef struct hash_state {
    uint32_t constant;
    uint32_t multiplier;
} hash_state;

static uint32_t hash(hash_state *h, uint32_t value)
{
    value ^= h->constant;
    h->constant *= h->multiplier;
    value *= h->constant;
    return value ^ (value >> 16);
}

static uint32_t mix(uint32_t x, uint32_t y)
{
    uint32_t value = 0xca01f9ddu * x - 0x4973f715u * y;
    return value ^ (value >> 16);
}

/* Appends value as 32-bit words, low word first, without leading zero words but at least one. */
static int append_words(uint32_t *words, int count, uint64_t value)
{
    do {
        words[count++] = (uint32_t)value;
        value >>= 32;
    } while (value);
    return count;
}

/* Entropy padded with zeros to the pool's size where a spawn key follows, then the key. */
static int assemble(uint32_t words[MAX_WORDS], uint64_t entropy, const uint64_t *spawn_key,
                    int spawn_count)
{
    int count = append_words(words, 0, entropy);
    if (spawn_count > 0)
        while (count < POOL)
            words[count++] = 0;
    for (int i = 0; i < spawn_count; i++)
        count = append_words(words, count, spawn_key[i]);
    return count;
}

uint32_t ks_seed_sequence_word(uint64_t entropy, const uint64_t *spawn_key, int spawn_count)
{
    uint32_t words[MAX_WORDS], pool[POOL];
    int count = assemble(words, entropy, spawn_key, spawn_count);
    hash_state in = {0x43b0d7e5u, 0x931e8875u}, out = {0x8b51f9ddu, 0x58f38dedu};
    for (int i = 0; i < POOL; i++)
        pool[i] = hash(&in, i < count ? words[i] : 0);
    for (int from = 0; from < POOL; from++)
        for (int to = 0; to < POOL; to++)
            if (from != to)
                pool[to] = mix(pool[to], hash(&in, pool[from]));
    for (int from = POOL; from < count; from++)
        for (int to = 0; to < POOL; to++)
            pool[to] = mix(pool[to], hash(&in, words[from]));
    return hash(&out, pool[0]);
}
