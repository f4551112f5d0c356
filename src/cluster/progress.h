/* The one line that tells how a run goes: drawn over itself on a terminal, now and then in a log. */
#ifndef KS_CLUSTER_PROGRESS_H
#define KS_CLUSTER_PROGRESS_H

#include <stdbool.h>

#include "cluster/coordinator.h"

typedef struct ks_progress_line {
    bool quiet, terminal;
    double interval, next; /* seconds */
    double rows, rows_time, rows_per_second;
    bool drawn;
} ks_progress_line;

/* log_seconds: between lines of a log; 0: 60. */
void ks_progress_start(ks_progress_line *line, bool quiet, double log_seconds);

/* Draws the line when it is due. samples_per_point: a point's batch. rows: network rows computed so far by all ranks. */
void ks_progress_show(ks_progress_line *line, const ks_progress *p, int samples_per_point, double rows, int ranks,
                      double now);

/* Draws it a last time and leaves it standing. */
void ks_progress_end(ks_progress_line *line, const ks_progress *p, int samples_per_point, double rows, int ranks, double now);

#endif
