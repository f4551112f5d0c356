/* Places for things that are used again and again, of which the longest unused gives way: which conditioning another rank keeps
 * where. Nothing is ever given back. */
#ifndef KS_CLUSTER_SLOTS_H
#define KS_CLUSTER_SLOTS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct ks_slots ks_slots;

ks_slots *ks_slots_new(int count);
void ks_slots_free(ks_slots *s);

/* Begins a turn: what is asked for from now on keeps its slot until the next one. */
void ks_slots_begin(ks_slots *s);

/* The slot of id (not 0), of which at most `count` different ones are asked for in a turn. *is_new: it was not there, and something
 * else may have been. */
int ks_slots_of(ks_slots *s, uint64_t id, bool *is_new);

#endif
