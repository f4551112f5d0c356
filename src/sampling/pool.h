/* Device memory for latents, kept by size: what a lane gives back the next one takes, so that
 * nothing is allocated while a sweep runs. Of many sizes, the unused memory of those that were
 * asked for longest ago is released. */
#ifndef KS_SAMPLING_POOL_H
#define KS_SAMPLING_POOL_H

#include "backend/ops.h"

typedef struct ks_pool_size {
    int64_t floats;
    float **free; /* room for all */
    int unused, all;
    int64_t asked; /* when it was last asked for */
} ks_pool_size;

enum { KS_POOL_SIZES = 64 }; /* sizes that keep unused memory */

typedef struct ks_pool {
    ks_ops *ops;
    ks_pool_size *size;
    int sizes;
    int64_t clock;
} ks_pool;

/* Device memory of that many floats with undefined values. When the device has none left, unused
 * memory of other sizes is released first. NULL and err if that does not help. */
float *ks_pool_get(ks_pool *pool, int64_t floats, ks_error *err);

/* memory may be NULL. Whatever is queued on ops already may still use it. */
void ks_pool_put(ks_pool *pool, float *memory, int64_t floats);

/* Releases all; everything must have been put back. */
void ks_pool_clear(ks_pool *pool);

#endif
