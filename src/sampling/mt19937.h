/* MT19937: Matsumoto & Nishimura, "Mersenne Twister", ACM TOMACS 8 (1998). */
#ifndef KS_SAMPLING_MT19937_H
#define KS_SAMPLING_MT19937_H

#include <stdint.h>

#include "backend/generators.h"

/* The 2002 initialisation ("init_genrand"). *next is the place of the next word in the state. */
void ks_mt19937_seed(uint32_t state[KS_MT_WORDS], int *next, uint32_t seed);

/* The next count tempered words; out NULL: they are passed over. */
void ks_mt19937_words(uint32_t state[KS_MT_WORDS], int *next, uint32_t *out, int64_t count);

#endif
