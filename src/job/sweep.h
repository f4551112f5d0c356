/* The sweep as an index space. */
#ifndef KS_JOB_SWEEP_H
#define KS_JOB_SWEEP_H

#include "job/job.h"

/* Refuses a sweep of more than 2^63 - 1 samples. */
int ks_sweep_check(const ks_job *job, ks_error *err);

#endif
