/* What the parts of a sweep (--shard) that begin at the same time must have in common. */
#ifndef KS_CLUSTER_LAYOUT_H
#define KS_CLUSTER_LAYOUT_H

#include "base/error.h"

/* The first part to come writes backend, precision and rows of a call into OUT.d/layout; the others
 * take the rows from there. Fails when their backend or precision is another one. */
int ks_layout_agree(const char *folder, const char *backend, const char *precision, int *rows,
                    ks_error *err);

/* Forgets it: nobody else writes. */
void ks_layout_clear(const char *folder);

#endif
