/* Where a job's output goes: whether a run can write there and go on with what is there, and whether there is room for it. What run,
 * plan and submit ask alike. Nothing here writes. */
#ifndef KS_CLUSTER_TARGET_H
#define KS_CLUSTER_TARGET_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/error.h"
#include "cluster/setup.h"
#include "store/store.h"

/* The output's folder must exist and take files, and the output, where it exists, be a file. */
int ks_target_check(const char *output, ks_error *err);

/* "... cannot be written there" with errno's reason; -1. */
int ks_target_unwritable(const char *output, ks_error *err);

/* Reads what an existing output was begun with (*old, NULL where there is none; ks_store_info_free it in every case) and refuses
 * another one: latents, pictures, layout, the model where its digest is made, backend and precision where ops is not NULL. */
int ks_target_open(const ks_setup *setup, const ks_ops *ops, ks_store_info **old, ks_error *err);
int ks_target_match(const ks_setup *setup, const ks_ops *ops, const ks_store_info *old, ks_error *err);

/* Refuses other batch rows than the output was begun with. */
int ks_target_check_rows(const ks_job *job, int begun, ks_error *err);

/* Refuses an output with samples (`foreign` of them) that the job does not ask for. begun: samples of the sweep that it was begun with. */
int ks_target_check_foreign(const ks_job *job, uint64_t begun, uint64_t foreign, ks_error *err);

/* Points that a run is to render, that it and all others are to, and that are there. */
typedef struct ks_target_want {
    uint64_t todo, left, done;
} ks_target_want;

typedef struct ks_target_room {
    double output;        /* bytes of all that there will be when everything is rendered, */
    double most;          /* and of all that there is while it is merged; the same where it is not */
    bool renders, merges; /* what is to be rendered fits on the disk, and the merged file beside it; a disk that does not tell its
                           * free space is believed to have it */
    char text[512];       /* one sentence about the first of them that is false */
} ks_target_room;

int ks_target_find_room(const ks_setup *setup, const ks_ops *ops, const ks_target_want *want, ks_target_room *room, ks_error *err);

/* After a collecting that failed: where a merge lacked room, err says what can be done. -1. */
int ks_target_not_collected(const ks_setup *setup, ks_error *err);

#endif
