/* Device memory for latents, kept by size: what a lane gives back the next one takes, so that nothing is
 * allocated while a sweep runs. */
#ifndef KS_SAMPLING_POOL_H
#define KS_SAMPLING_POOL_H

#include "backend/ops.h"

typedef struct ks_pool_size {
    int64_t floats;
    float **free; /* room for all */
    int unused, all;
} ks_pool_size;

typedef struct ks_pool {
    ks_ops *ops;
    ks_pool_size *size;
    int sizes;
} ks_pool;

/* Device memory of that many floats with undefined values. When the device has none left, unused memory of
 * other sizes is released first. NULL and err if that does not help. */
float *ks_pool_get(ks_pool *pool, int64_t floats, ks_error *err);

/* memory may be NULL. Whatever is queued on ops already may still use it. */
void ks_pool_put(ks_pool *pool, float *memory, int64_t floats);

/* Releases all; everything must have been put back. */
void ks_pool_clear(ks_pool *pool);

#endif
