/* The conditionings of a job on one rank: read or encoded when a sample needs them, kept for the
 * next ones. */
#ifndef KS_CLUSTER_CONDITIONS_H
#define KS_CLUSTER_CONDITIONS_H

#include "base/error.h"
#include "base/hash.h"
#include "job/job.h"
#include "model/model.h"
#include "sampling/engine.h"

typedef struct ks_conditions ks_conditions;

/* config outlives the object. shape: of the latents, [batch, channels, height, width] in cells. */
ks_conditions *ks_conditions_new(const ks_model_config *config, const int shape[4]);
void ks_conditions_free(ks_conditions *c); /* before the model that made the conds is freed */

/* Checks one value of the positive or negative axis (texts need a text encoder, tensors must be
 * there and fit, areas must lie on the picture) and gives the digest of its content. Needs no
 * device. */
int ks_conditions_digest(ks_conditions *c, const ks_conditioning *value, ks_hash128 *digest,
                         ks_error *err);

/* Conditionings of a value that have an area: each is one more on the other side, too. */
int ks_conditions_areas(const ks_conditioning *value);

/* The same counted by their parts of the picture, or all conditionings of the value. For estimates:
 * what cannot be read counts as the whole. */
double ks_conditions_cells(ks_conditions *c, const ks_conditioning *value, bool areas);

/* Queues the encoding of a value's texts that are not kept yet, as far as there is room for more on their way: a later
 * ks_conditions_take finds them. Those on their way must be settled when what was queued by then has been waited for. */
int ks_conditions_encode_ahead(ks_conditions *c, ks_model *model, const ks_conditioning *value, ks_error *err);
bool ks_conditions_on_their_way(const ks_conditions *c);
int ks_conditions_settle(ks_conditions *c, ks_model *model, ks_error *err);

/* Fills out[value->count] with conds ready for the network; they stay until given back. */
int ks_conditions_take(ks_conditions *c, ks_model *model, const ks_conditioning *value,
                       ks_guidance *out, ks_error *err);
void ks_conditions_give(ks_conditions *c, const ks_guidance *guidance, int count);

#endif
