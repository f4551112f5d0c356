#include "sampling/batcher.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static size_t row_bytes(const ks_batcher *b)
{
    return (size_t)b->floats * sizeof(float);
}

/* --- the table of keys and its order of use --- */

static ks_row **bucket_of(ks_batcher *b, const ks_hash128 *key)
{
    return &b->bucket[(key->byte[0] << 8 | key->byte[1]) % KS_ROW_BUCKETS];
}

static ks_row *find(ks_batcher *b, const ks_hash128 *key)
{
    ks_row *row = *bucket_of(b, key);
    while (row && !ks_hash_equal(&row->key, key))
        row = row->chain;
    return row;
}

static void order_remove(ks_batcher *b, ks_row *row)
{
    *(row->newer ? &row->newer->older : &b->newest) = row->older;
    *(row->older ? &row->older->newer : &b->oldest) = row->newer;
}

static void order_add(ks_batcher *b, ks_row *row)
{
    row->newer = NULL;
    row->older = b->newest;
    *(b->newest ? &b->newest->newer : &b->oldest) = row;
    b->newest = row;
}

static void table_remove(ks_batcher *b, ks_row *row)
{
    ks_row **link = bucket_of(b, &row->key);
    while (*link != row)
        link = &(*link)->chain;
    *link = row->chain;
    order_remove(b, row);
    row->shared = false;
    b->shared_bytes -= row_bytes(b);
    ks_batcher_release(b, row);
}

static void table_add(ks_batcher *b, ks_row *row, const ks_hash128 *key)
{
    row->key = *key;
    row->shared = true;
    row->refs++;
    row->chain = *bucket_of(b, key);
    *bucket_of(b, key) = row;
    order_add(b, row);
    b->shared_bytes += row_bytes(b);
    while (b->shared_bytes > b->share_bytes)
        table_remove(b, b->oldest);
}

/* --- rows --- */

void ks_batcher_shape(ks_batcher *b, int64_t floats)
{
    if (floats == b->floats)
        return;
    ks_batcher_forget(b);
    ks_batcher_clear(b);
    b->floats = floats;
}

/* An unused row with its output's memory. */
static ks_row *new_row(ks_batcher *b, ks_error *err)
{
    ks_row *row = b->unused;
    if (row) {
        b->unused = row->next;
        return row;
    }
    float *out = ks_pool_get(b->pool, b->floats, err);
    if (!out)
        return NULL;
    row = ks_calloc(1, sizeof *row);
    row->net.out = out;
    return row;
}

ks_row *ks_batcher_request(ks_batcher *b, const ks_net_row *net, const ks_hash128 *key, bool *saved, ks_error *err)
{
    ks_row *row = key ? find(b, key) : NULL;
    *saved = row != NULL;
    if (row) {
        order_remove(b, row);
        order_add(b, row);
        row->refs++;
        return row;
    }
    row = new_row(b, err);
    if (!row)
        return NULL;
    float *out = row->net.out;
    *row = (ks_row){.net = *net, .refs = 1};
    row->net.out = out;
    *(b->first ? &b->last->next : &b->first) = row;
    b->last = row;
    b->waiting++;
    if (key)
        table_add(b, row, key);
    return row;
}

void ks_batcher_release(ks_batcher *b, ks_row *row)
{
    if (--row->refs > 0)
        return;
    row->next = b->unused;
    b->unused = row;
}

int ks_batcher_take(ks_batcher *b, ks_net_row *net, int max)
{
    int n = 0;
    while (n < max && b->first) {
        ks_row *row = b->first;
        b->first = row->next;
        row->next = NULL;
        row->done = true;
        b->waiting--;
        net[n++] = row->net;
    }
    return n;
}

void ks_batcher_forget(ks_batcher *b)
{
    b->first = b->last = NULL;
    b->waiting = 0;
    while (b->oldest)
        table_remove(b, b->oldest);
}

void ks_batcher_clear(ks_batcher *b)
{
    while (b->unused) {
        ks_row *row = b->unused;
        b->unused = row->next;
        ks_pool_put(b->pool, row->net.out, b->floats);
        free(row);
    }
}
