/* The arithmetic of torch's standard normals, a chunk at a time: Box & Muller, "A note on the
 * generation of random normal deviates", Annals of Mathematical Statistics 29 (1958). */
#ifndef KS_SAMPLING_NORMALS_H
#define KS_SAMPLING_NORMALS_H

#include <stdint.h>

#include "backend/generators.h"
#include "sampling/philox.h"

enum { KS_NORMAL_BLOCKS = 64 }; /* at most, a call of ks_normal_blocks */

/* out[16 * blocks] from as many MT19937 words: of a block's words the first 8 give radii, the last
 * 8 angles; the first 8 values are radius * cos, the last 8 radius * sin. */
void ks_normal_blocks(const uint32_t *words, float *out, int blocks);

/* Values 0 .. rows - 1 of Philox block `block` of threads first .. first + count - 1:
 * out[value][thread - first]. rows: 1 to 4. What lies behind count may be overwritten. */
void ks_philox_normals(uint64_t seed, uint64_t block, uint32_t first, int count, int rows,
                       float out[4][KS_PHILOX_THREADS]);

#endif
