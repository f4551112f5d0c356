/* The conditionings of a job on one rank: read or encoded when a sample needs them, kept for the next ones. */
#ifndef KS_CLUSTER_CONDITIONS_H
#define KS_CLUSTER_CONDITIONS_H

#include "base/error.h"
#include "base/hash.h"
#include "job/job.h"
#include "model/model.h"
#include "sampling/engine.h"

typedef struct ks_conditions ks_conditions;

/* config outlives the object. height, width: of the picture in pixels (SDXL's default sizes). */
ks_conditions *ks_conditions_new(const ks_model_config *config, int height, int width);
void ks_conditions_free(ks_conditions *c); /* before the model that made the conds is freed */

/* Checks one value of the positive or negative axis (texts need a text encoder, tensors must be there and fit) and gives
 * the digest of its content. Needs no device. */
int ks_conditions_digest(ks_conditions *c, const ks_conditioning *value, ks_hash128 *digest, ks_error *err);

/* Fills out[value->count] with conds ready for the network; they stay until given back. */
int ks_conditions_take(ks_conditions *c, ks_model *model, const ks_conditioning *value, ks_guidance *out, ks_error *err);
void ks_conditions_give(ks_conditions *c, const ks_guidance *guidance, int count);

#endif
