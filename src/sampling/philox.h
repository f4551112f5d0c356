/* Philox 4x32-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011. */
#ifndef KS_SAMPLING_PHILOX_H
#define KS_SAMPLING_PHILOX_H

#include <stdint.h>

enum { KS_PHILOX_THREADS = 512 }; /* counters of a call, at most */

/* words[k][i] = word k of counter (block, first + i), 64 bits each, under the key `seed`, for i <
 * count. What lies behind count in words may be overwritten. */
void ks_philox_words(uint64_t seed, uint64_t block, uint32_t first, int count,
                     uint32_t words[4][KS_PHILOX_THREADS]);

#endif
