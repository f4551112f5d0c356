/* Values of the latent_image axis; ks_item_latent (fields.h) reads them. */
#ifndef KS_JOB_LATENT_H
#define KS_JOB_LATENT_H

#include "base/json.h"
#include "job/job.h"

/* Holds the job's latents against one another, as far as the job file tells their shapes, and sets
 * job->batch. v: the axis, for messages. */
int ks_latents_check(ks_job *job, ks_json v, ks_error *err);

/* Frees the axis and all that its values hold; values may be NULL. */
void ks_latents_free(ks_latent_ref *values, int count);

#endif
