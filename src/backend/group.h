/* Ranks that compute network calls together, as the backends see them: a few collectives on host memory, behind which
 * MPI (or anything else that connects processes) stands.
 *
 * Every member calls the same collectives in the same order. A member that dies or does not come in time makes them fail
 * on the others, with the rank in the error's text; from then on the group is of no use. */
#ifndef KS_BACKEND_GROUP_H
#define KS_BACKEND_GROUP_H

#include <stddef.h>

#include "base/error.h"

typedef struct ks_group ks_group;
struct ks_group {
    int rank, size;  /* of this process within the group; size 1: alone, and nothing is ever sent */
    double patience; /* seconds that a member waits for the others in a collective, on a device too */
    void *self;
    /* bytes from `root` to all. */
    int (*broadcast)(ks_group *g, void *data, size_t bytes, int root, ks_error *err);
    /* Every member's `bytes` to all, in the order of their ranks; all holds size * bytes. */
    int (*gather)(ks_group *g, const void *mine, size_t bytes, void *all, ks_error *err);
    /* Whether this rank has heard meanwhile that the group is of no use any more: -1. Does not wait. NULL: it hears nothing. */
    int (*look)(ks_group *g, ks_error *err);
};

#endif
