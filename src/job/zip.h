/* "sweep": axes that walk together. */
#ifndef KS_JOB_ZIP_H
#define KS_JOB_ZIP_H

#include "base/json.h"
#include "job/job.h"

/* Reads the groups into job->behind. The axes have been read. v may be absent. */
int ks_zip_read(ks_job *job, ks_json v, ks_error *err);

#endif
