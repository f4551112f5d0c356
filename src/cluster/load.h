/* A job from its file, with what the command line changed. */
#ifndef KS_CLUSTER_LOAD_H
#define KS_CLUSTER_LOAD_H

#include "base/error.h"
#include "job/job.h"
#include "ksweep/ksweep.h"

ks_job *ks_job_from_source(const ks_job_source *source, ks_error *err);

#endif
