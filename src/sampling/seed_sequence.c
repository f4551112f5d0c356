#include <stddef.h>

#include "sampling/noise.h"

/* Hash of a seed into a pool of words: M. E. O'Neill, "Developing a seed_seq alternative" (2015),
 * as numpy's SeedSequence defines it (numpy reference, "Bit generators", SeedSequence). */

enum { POOL = 24, MAX_WORDS = 4 };

#define IN_MULTIPLIER 0x931e8875u

/* Hashes words; its constant goes on from word to word. */
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

/* The pool of the entropy alone: numpy pads it with zeros to the pool's size before a spawn key, and without one fills the pool
 * with as many. */
ks_seed_root ks_seed_root_of(uint64_t entropy)
{
    uint32_t words[2] = {0}, pool[POOL];
    hash_state in = {0x43b0d7e5u, IN_MULTIPLIER};
    append_words(words, 0, entropy);
    for (int i = 0; i < POOL; i++)
        pool[i] = hash(&in, i < 2 ? words[i] : 0);
    for (int from = 0; from < POOL; from++)
        for (int to = 0; to < POOL; to++)
            if (from != to)
                pool[to] = mix(pool[to], hash(&in, pool[from]));
    return (ks_seed_root){pool[0], in.constant};
}

/* Of the pool only word 0 is asked for, and a further word is mixed into each of the pool's by itself: for the others the
 * constant alone goes on. */
uint32_t ks_seed_word(ks_seed_root root, const uint64_t *spawn_key, int spawn_count)
{
    uint32_t words[MAX_WORDS], skip = 1;
    hash_state in = {root.constant, IN_MULTIPLIER}, out = {0x8b51f9ddu, 0x58f38dedu};
    int count = 0;
    for (int i = 0; i < spawn_count; i++)
        count = append_words(words, count, spawn_key[i]);
    for (int i = 1; i < POOL; i++)
        skip *= IN_MULTIPLIER;
    for (int i = 0; i < count; i++) {
        root.word = mix(root.word, hash(&in, words[i]));
        in.constant *= skip;
    }
    return hash(&out, root.word);
}
