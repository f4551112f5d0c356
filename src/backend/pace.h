/* How far the host is ahead of its device: never more than one network call. */
#ifndef KS_BACKEND_PACE_H
#define KS_BACKEND_PACE_H

#include "backend/ops.h"

/* Zeros before the first call. */
typedef struct ks_pace {
    uint64_t fence; /* behind the call that was queued last */
    bool begun;
} ks_pace;

/* A call has just been queued: waits for the one before it, if there was one, whose failure it hands out. The device has work
 * meanwhile. Nothing where the backend runs everything at once. */
static inline int ks_pace_call(ks_pace *pace, ks_ops *ops, ks_error *err)
{
    if (!ops->fence)
        return 0;
    const ks_pace last = *pace;
    *pace = (ks_pace){.fence = ops->fence(ops), .begun = true};
    return last.begun ? ops->wait(ops, last.fence, err) : 0;
}

#endif
