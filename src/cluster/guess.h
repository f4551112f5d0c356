/* Where a row of another order of the sweep probably is in this one: from the values that the row tells. */
#ifndef KS_CLUSTER_GUESS_H
#define KS_CLUSTER_GUESS_H

#include <stdint.h>

#include "job/job.h"
#include "store/store.h"

/* A sample of the job with the row's widgets; -1 when none is found quickly. The caller holds it against the row's key. A job
 * that has grown keeps its prompts' and latents' places, or is searched by key. Costs a look through the axes' values. */
int64_t ks_guess_index(const ks_job *job, const ks_row *row);

#endif
