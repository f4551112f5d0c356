/* How many rows the network has to compute for a sweep, or for some of it. */
#ifndef KS_CLUSTER_ROW_COUNT_H
#define KS_CLUSTER_ROW_COUNT_H

#include <stdint.h>

#include "cluster/conditions.h"
#include "job/job.h"

/* map: the KSampler calls that count (bitmap over `points`); NULL: all. cells: rows count by their part of the picture; NULL: each is
 * one. Samplers that choose their own steps are guessed. */
double ks_row_count(const ks_job *job, const uint64_t *map, uint64_t points, ks_conditions *cells);

#endif
