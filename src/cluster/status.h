/* How far an output is, as ksweep status counts. */
#ifndef KS_CLUSTER_STATUS_H
#define KS_CLUSTER_STATUS_H

#include "ksweep/ksweep.h"
#include "store/store.h"

/* The counts of a tally that has an info. */
void ks_counts_of(const ks_tally *tally, ks_counts *counts);

#endif
