/* The masks of a job at the latent's size: read when a sample needs them, kept for the next ones.
 */
#ifndef KS_CLUSTER_MASKS_H
#define KS_CLUSTER_MASKS_H

#include "backend/ops.h"
#include "base/error.h"
#include "job/job.h"

typedef struct ks_masks ks_masks;

typedef struct ks_mask {
    const float *values; /* [count, height, width] */
    int count;           /* at most the batch: a mask beyond it belongs to no latent */
    ks_window bounds;    /* of all that the file holds, beyond the batch too */
} ks_mask;

/* batch, height, width: of the job's latents, in cells. */
ks_masks *ks_masks_new(int batch, int height, int width);
void ks_masks_free(ks_masks *m);

/* The mask of a reference. It stays until it is given back by its values. */
int ks_masks_take(ks_masks *m, const ks_mask_ref *ref, ks_mask *mask, ks_error *err);
void ks_masks_give(ks_masks *m, const float *values);

#endif
