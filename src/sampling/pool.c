#include "sampling/pool.h"

#include <stdlib.h>

#include "base/file.h"

static void release_size(ks_pool *pool, ks_pool_size *size)
{
    size->all -= size->unused;
    while (size->unused > 0)
        pool->ops->release(pool->ops, size->free[--size->unused]);
}

static void release_unused(ks_pool *pool)
{
    for (int i = 0; i < pool->sizes; i++)
        release_size(pool, &pool->size[i]);
}

/* A place for a further size: of one that has no memory in use, when there are many. */
static ks_pool_size *new_size(ks_pool *pool)
{
    ks_pool_size *oldest = NULL;
    for (int i = 0; i < pool->sizes && pool->sizes >= KS_POOL_SIZES; i++) {
        ks_pool_size *size = &pool->size[i];
        if (size->unused == size->all && (!oldest || size->asked < oldest->asked))
            oldest = size;
    }
    if (oldest) {
        release_size(pool, oldest);
        free(oldest->free);
        return oldest;
    }
    pool->size = ks_realloc(pool->size, (size_t)pool->sizes + 1, sizeof *pool->size);
    return &pool->size[pool->sizes++];
}

static ks_pool_size *find_size(ks_pool *pool, int64_t floats)
{
    for (int i = 0; i < pool->sizes; i++)
        if (pool->size[i].floats == floats)
            return &pool->size[i];
    ks_pool_size *size = new_size(pool);
    *size = (ks_pool_size){.floats = floats};
    return size;
}

float *ks_pool_get(ks_pool *pool, int64_t floats, ks_error *err)
{
    ks_pool_size *size = find_size(pool, floats);
    size->asked = ++pool->clock;
    if (size->unused > 0)
        return size->free[--size->unused];
    size_t bytes = (size_t)floats * sizeof(float);
    float *memory = pool->ops->alloc(pool->ops, bytes, err);
    if (!memory) {
        release_unused(pool);
        memory = pool->ops->alloc(pool->ops, bytes, err);
    }
    if (!memory)
        return NULL;
    size->free = ks_realloc(size->free, (size_t)size->all + 1, sizeof *size->free);
    size->all++;
    return memory;
}

void ks_pool_put(ks_pool *pool, float *memory, int64_t floats)
{
    if (!memory)
        return;
    ks_pool_size *size = find_size(pool, floats);
    size->free[size->unused++] = memory;
}

void ks_pool_clear(ks_pool *pool)
{
    release_unused(pool);
    for (int i = 0; i < pool->sizes; i++)
        free(pool->size[i].free);
    free(pool->size);
    pool->size = NULL;
    pool->sizes = 0;
}
