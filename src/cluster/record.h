/* What an output says of its run, and of each of its rows. */
#ifndef KS_CLUSTER_RECORD_H
#define KS_CLUSTER_RECORD_H

#include <stdint.h>

#include "backend/ops.h"
#include "base/error.h"
#include "cluster/setup.h"
#include "store/store.h"

/* info's texts belong to the job, the setup and the record: valid as long as all three. */
typedef struct ks_record {
    ks_store_info info;
    char **labels;
    const char **names;
    char *parallel, *job_path;
} ks_record;

/* The job's layout of a replica as outputs record it: new memory. */
char *ks_record_parallel(const ks_job *job);

int ks_record_open(ks_record *record, const ks_setup *setup, const ks_ops *ops, int rows, ks_error *err);
void ks_record_close(ks_record *record);

ks_row ks_record_row(const ks_setup *setup, uint64_t index, int64_t nfe, bool failed);

/* "merge" or "virtual": output.collect, where "auto" merges up to 8 GiB. */
const char *ks_record_collect_mode(const ks_setup *setup);

#endif
