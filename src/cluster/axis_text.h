/* Values of a sweep's axes as text. */
#ifndef KS_CLUSTER_AXIS_TEXT_H
#define KS_CLUSTER_AXIS_TEXT_H

#include <stdint.h>

#include "job/job.h"

/* The shortest decimal that reads back as the same double. */
void ks_number_text(double value, char *out, int size);

/* Value k of an axis, cut to size: a label, a number or a name. */
void ks_axis_value_text(const ks_job *job, ks_axis axis, uint64_t k, char *out, int size);

#endif
