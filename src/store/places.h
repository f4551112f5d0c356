/* Which row of which file holds each sample of a sweep: 8 bytes a sample. */
#ifndef KS_STORE_PLACES_H
#define KS_STORE_PLACES_H

#include <stdint.h>

#include "store/source.h"

/* at[i]: 0 when no file has sample i, else a code of (source, row) that grows with both. */
typedef struct ks_places {
    uint64_t samples, found, bad;
    uint64_t *at;
} ks_places;

enum { KS_PLACES_SOURCES = 1 << 20 };

uint64_t ks_place_code(int source, uint64_t row);
int ks_place_source(uint64_t code);
uint64_t ks_place_row(uint64_t code);

/* Looks through all usable sources. index_of: as in ks_store_collect; NULL takes the recorded index
 * of those files that have sweep (not NULL then). Of several rows of a sample the first good done
 * one wins, else the first failed one. Done rows without a place are counted in their source's
 * left_out. */
int ks_places_build(ks_places *p, ks_sources *s, const ks_store_info *info, const ks_hash128 *sweep,
                    int64_t (*index_of)(void *self, const ks_row *row), void *self, ks_error *err);
void ks_places_free(ks_places *p);

/* A place and where it is wanted: slot is the number of an output row in a block. */
typedef struct ks_pick {
    uint64_t code;
    uint64_t slot;
} ks_pick;

/* Picks of at[0..count), those that have a place, in order of source and row; how many. */
size_t ks_picks_make(const uint64_t *at, size_t count, ks_pick *pick);

/* The number of picks from `from` on that are consecutive rows of one source. */
size_t ks_picks_run(const ks_pick *pick, size_t count, size_t from);

#endif
