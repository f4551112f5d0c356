/* Parts of a sweep: --filter and --shard.
 *
 * A filter is AXIS=VALUES: values of the axis or ranges A..B of them, with commas between. The axes
 * positive, negative and latent_image count by the places of their values, 0 first; sampler_name
 * and scheduler have no ranges; index=0..99 goes by the samples' places in the sweep. A point (a
 * KSampler call, with all of its latent's batch) is wanted when it passes every filter.
 *
 * Shard I/N, I from 0: the wanted points are cut into short runs of neighbours, and of every N runs
 * each shard has one, in a scattered order. So all shards have the same number of points, give or
 * take one run, and a fair share of slow and fast ones. It depends on the sweep and the filters
 * alone, never on what is done. */
#ifndef KS_CLUSTER_SELECT_H
#define KS_CLUSTER_SELECT_H

#include <stdint.h>

#include "base/error.h"
#include "job/job.h"

typedef struct ks_selection {
    uint64_t points, wanted,
        mine; /* KSampler calls: of the sweep, that pass the filters, of this shard */
    uint64_t *wanted_map, *mine_map; /* over points; NULL: all */
    int part, parts;                 /* parts 0: no shard was asked for */
} ks_selection;

/* The job's batch must be set. shard: "I/N" or NULL. Errors name the option and what would be
 * right; no point at all is one. */
int ks_select(ks_selection *s, const ks_job *job, const char *const *filters, int filter_count,
              const char *shard, ks_error *err);
void ks_selection_free(ks_selection *s);

#endif
