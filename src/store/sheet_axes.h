/* The axes of a sweep as a contact sheet shows them. */
#ifndef KS_STORE_SHEET_AXES_H
#define KS_STORE_SHEET_AXES_H

#include <stdint.h>

#include "job/job.h"

/* The axes along x and y, which do not walk together. A name that is NULL is chosen: the largest axis that
 * is left; of two chosen ones the smaller goes along x when the larger has more than KS_SHEET_WIDE
 * values. An error lists the axes that have more than one value. */
enum { KS_SHEET_WIDE = 12 };
int ks_sheet_choose(const ks_job *job, const char *x, const char *y, ks_axis *x_axis,
                    ks_axis *y_axis, ks_error *err);

/* What is written beside value k of an axis: its text, number or name. free() it. */
char *ks_sheet_label(const ks_job *job, ks_axis axis, uint64_t k);

#endif
