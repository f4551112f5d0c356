/* A job from its file, with what the command line changed. */
#ifndef KS_CLUSTER_LOAD_H
#define KS_CLUSTER_LOAD_H

#include "base/error.h"
#include "job/job.h"
#include "ksweep/ksweep.h"
#include "store/store.h"

ks_job *ks_job_from_source(const ks_job_source *source, ks_error *err);

/* The job that an output records, with its batch. Fails when files that its axes were read from have changed since. */
ks_job *ks_job_of_output(const ks_store_info *info, ks_error *err);

#endif
