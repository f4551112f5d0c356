/* Areas and masks as the job file gives them. */
#ifndef KS_JOB_REGION_H
#define KS_JOB_REGION_H

#include "job/fields.h"
#include "job/job.h"

/* Keys of a conditioning: into a ks_cond_ref, whose region is made when one of them is there. */
ks_field_fn ks_field_area, ks_field_mask, ks_field_mask_strength, ks_field_bounds;

/* {"file", "tensor"} into the ks_mask_ref at `at`. */
ks_field_fn ks_field_mask_file;

/* Refuses keys of a region that do not go together; v: the conditioning, for messages. */
int ks_region_check(const ks_region_ref *region, ks_json v, ks_error *err);

void ks_region_free(ks_region_ref *region); /* may be NULL */
void ks_mask_ref_clear(ks_mask_ref *mask);

#endif
