/* What the parts of a sweep (--shard) that begin at the same time must have in common. */
#ifndef KS_CLUSTER_LAYOUT_H
#define KS_CLUSTER_LAYOUT_H

#include "base/error.h"

/* How a part renders: what decides a sample's bits beside its key. */
typedef struct ks_layout {
    char backend[16], precision[16];
    int tensor, rows; /* the job's "parallel" */
    int batch_rows;
} ks_layout;

/* The first part to come writes its own into OUT.d/layout; the others take the batch rows from there. Fails when the rest is another
 * one. */
int ks_layout_agree(const char *folder, ks_layout *own, ks_error *err);

/* Forgets it: nobody else writes. */
void ks_layout_clear(const char *folder);

#endif
