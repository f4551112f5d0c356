/* Memory of parameters. The driver gives whole pages of 2 MB to everything larger, which for the thousand tensors of a network
 * is half a gigabyte; so parameters lie one after the other in chunks, each of which is given back with its last parameter. */
#include <stdlib.h>

#include "backend/cuda/cuda.h"

enum { ALIGNMENT = 256 };
static const size_t least = (size_t)16 << 20, most = (size_t)256 << 20;

/* Bytes of a chunk that begins with so many: as much as there is already, within bounds, unless memory is short. */
static size_t chunk_size(ks_cuda *c, size_t bytes)
{
    size_t size = least;
    for (int i = 0; i < c->stores; i++)
        size += c->store[i].size;
    size = size < most ? size : most;
    return bytes > size || size > ks_cuda_memory_free(&c->ops) / 2 ? bytes : size;
}

static ks_cuda_store *new_store(ks_cuda *c, size_t bytes, ks_error *err)
{
    ks_cuda_store *grown = realloc(c->store, (size_t)(c->stores + 1) * sizeof *grown);
    if (!grown) {
        ks_error_set(err, "no memory for a list of parameters");
        return NULL;
    }
    c->store = grown;
    ks_cuda_store *s = &grown[c->stores];
    *s = (ks_cuda_store){.size = chunk_size(c, bytes)};
    s->data = ks_cuda_alloc(&c->ops, s->size, err);
    if (!s->data)
        return NULL;
    c->stores++;
    return s;
}

void *ks_cuda_keep(ks_ops *ops, size_t bytes, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    int i = 0;
    while (i < c->stores && c->store[i].size - c->store[i].used < bytes)
        i++;
    ks_cuda_store *s = i < c->stores ? &c->store[i] : new_store(c, bytes, err);
    if (!s)
        return NULL;
    void *memory = s->data + s->used;
    s->used += bytes;
    s->live++;
    return memory;
}

void ks_cuda_drop(ks_ops *ops, void *memory)
{
    ks_cuda *c = ks_cuda_of(ops);
    const char *at = memory;
    int i = 0;
    while (i < c->stores && (at < c->store[i].data || at >= c->store[i].data + c->store[i].size))
        i++;
    if (!memory || i == c->stores || --c->store[i].live > 0)
        return;
    ks_cuda_release(ops, c->store[i].data);
    c->store[i] = c->store[--c->stores];
}

void ks_cuda_stores_free(ks_cuda *c)
{
    for (int i = 0; i < c->stores; i++)
        cudaFree(c->store[i].data);
    free(c->store);
}
