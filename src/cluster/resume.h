/* What an output already holds of a sweep: by key, so that a job that has grown renders only what is new. */
#ifndef KS_CLUSTER_RESUME_H
#define KS_CLUSTER_RESUME_H

#include <stdint.h>

#include "base/error.h"
#include "cluster/setup.h"
#include "store/store.h"

typedef struct ks_resume {
    const ks_setup *setup;
    ks_job_keyer *keyer;
    uint64_t samples, done;      /* of the sweep */
    uint64_t *sample_done;       /* bitmap over samples; NULL when nothing was found */
    uint64_t *sample_tried;      /* the same of those that are done or failed */
    struct ks_stray *stray;      /* rows of another sweep's order that only their key finds */
    uint64_t strays, stray_room;
    uint64_t foreign;            /* done rows that this job does not ask for */
    uint64_t bad;                /* rows that failed their digest */
} ks_resume;

/* Reads the output's rows (each latent is held against its digest, once: store/checked.h) and finds their places in the
 * sweep. */
int ks_resume_open(ks_resume *r, const ks_setup *setup, const char *output, ks_error *err);
/* The same by the rows' own fields: latents are not read, and nothing is written. */
int ks_resume_glance(ks_resume *r, const ks_setup *setup, const char *output, ks_error *err);
void ks_resume_close(ks_resume *r);

/* The row's index in this sweep, by its key; -1: none. (ks_store_collect's index_of.) */
int64_t ks_resume_index(void *resume, const ks_row *row);

/* Bitmap over points (batch samples each): all of the point's samples are done. free() it; NULL when nothing is. */
uint64_t *ks_resume_points(const ks_resume *r, uint64_t *points_done);

/* Samples of the wanted points (bitmap; NULL: all) that are neither done nor failed. */
uint64_t ks_resume_missing(const ks_resume *r, const uint64_t *wanted);

#endif
