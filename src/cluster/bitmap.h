/* Bitmaps over samples or points: bit i of word i / 64. */
#ifndef KS_CLUSTER_BITMAP_H
#define KS_CLUSTER_BITMAP_H

#include <stdbool.h>
#include <stdint.h>

/* Words of a map of so many bits; at least one. */
static inline uint64_t ks_bitmap_words(uint64_t bits)
{
    return bits / 64 + 1;
}

static inline bool ks_bit(const uint64_t *map, uint64_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

static inline void ks_bit_set(uint64_t *map, uint64_t i)
{
    map[i / 64] |= (uint64_t)1 << (i % 64);
}

#endif
