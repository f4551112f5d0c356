/* The lanes' part of a backend in plain host memory: tests of the lane engine need no network
 * operations. */
#ifndef TESTS_SUPPORT_HOST_OPS_H
#define TESTS_SUPPORT_HOST_OPS_H

#include "backend/ops.h"

/* Free with ops->free(ops). */
ks_ops *host_ops_new(void);

/* Memory given out and not released yet, and how often alloc was called. */
int host_ops_live(const ks_ops *ops);
int host_ops_allocs(const ks_ops *ops);

/* Calls of ops->lincomb so far. */
int host_ops_lincomb_calls(const ks_ops *ops);

/* alloc number `allocs` and all later ones fail; -1: none does. */
void host_ops_fail_after(ks_ops *ops, int allocs);

/* From now on noise is an operation of the device; before, the engine makes it on the host. */
void host_ops_draw_noise(ks_ops *ops);
int host_ops_noise_calls(const ks_ops *ops); /* of ops->noise so far */
void host_noise_op(const ks_noise_op *op);   /* what it does for each */

/* From now on as a GPU: what goes to the host comes when a later fence, or all, is waited for. */
void host_ops_be_late(ks_ops *ops);

/* Operation number `launch`, counted from 1, fails; the next wait tells. 0: none does. */
void host_ops_fail_at(ks_ops *ops, int launch);
int host_ops_launches(const ks_ops *ops); /* operations so far */

#endif
