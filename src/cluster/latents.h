/* The input latents of a job: their one shape, their digests, and their values when a sample needs
 * them. */
#ifndef KS_CLUSTER_LATENTS_H
#define KS_CLUSTER_LATENTS_H

#include "base/error.h"
#include "base/hash.h"
#include "job/job.h"

typedef struct ks_input_latents ks_input_latents;

/* Reads the shape of every value of the axis and sets job->batch. channels: the model's. An error
 * names the value. */
ks_input_latents *ks_input_latents_new(ks_job *job, int channels, ks_error *err);
void ks_input_latents_free(ks_input_latents *l);

/* [batch, channels, height, width], in cells. */
void ks_input_latents_shape(const ks_input_latents *l, int shape[4]);

/* The noise mask of a value of the axis: [*masks, height, width], or NULL without one; valid until
 * the next call. */
int ks_input_latents_mask(ks_input_latents *l, int value, const float **mask, int *masks,
                          ks_error *err);

/* Of shape, values, batch_index and noise mask of one value of the axis. */
int ks_input_latents_digest(ks_input_latents *l, int value, ks_hash128 *digest, ks_error *err);

/* *values: [batch, channels, height, width], or NULL for an empty latent; valid until the next
 * call. */
int ks_input_latents_get(ks_input_latents *l, int value, const float **values, ks_error *err);

#endif
