/* Values of the positive and negative axes; ks_item_conditioning (fields.h) reads them. */
#ifndef KS_JOB_CONDITIONING_H
#define KS_JOB_CONDITIONING_H

#include "job/job.h"

/* Frees an axis of conditionings and all that its values hold; values may be NULL. */
void ks_conditionings_free(ks_conditioning *values, int count);

#endif
