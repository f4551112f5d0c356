/* Which linear combinations can go out as one launch. */
#ifndef KS_BACKEND_CUDA_COMBINE_H
#define KS_BACKEND_CUDA_COMBINE_H

#include "backend/ops.h"
#include "kernels/lanes.h"

/* Takes operations from the front of op, count of at most KS_CUDA_COMBINE, for one launch; returns
 * how many, at least 1. Those that depend on one another become a chain: sorted [count] has the
 * operations chain by chain, each in the order given. An operation that overlaps an earlier one's
 * arrays at another offset, so that an element would need other elements, is not taken. */
int ks_cuda_chains(const ks_lincomb_op *op, int count, ks_lincomb_op *sorted, ks_cuda_chain *chain,
                   int *chains, int64_t *longest);

enum { KS_CUDA_COMBINE = 128 };

#endif
