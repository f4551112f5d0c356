#include "sampling/batcher.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum {
    PATIENCE = 16,  /* calls that a row waits for others of its size */
    KEPT_QUEUES = 8 /* sizes whose memory is kept when nobody uses it */
};

static int64_t row_floats(const ks_batcher *b, const ks_row_queue *q)
{
    return (int64_t)b->channels * q->height * q->width;
}

static size_t row_bytes(const ks_batcher *b, const ks_row *row)
{
    return (size_t)row_floats(b, &b->queue[row->queue]) * sizeof(float);
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
    b->shared_bytes -= row_bytes(b, row);
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
    b->shared_bytes += row_bytes(b, row);
    while (b->shared_bytes > b->share_bytes)
        table_remove(b, b->oldest);
}

/* --- queues --- */

/* The queue of a size. */
static int queue_of(ks_batcher *b, int height, int width)
{
    int place = b->queues;
    for (int i = b->queues - 1; i >= 0; i--) {
        if (b->queue[i].height == height && b->queue[i].width == width)
            return i;
        place = b->queue[i].height == 0 ? i : place;
    }
    if (place == b->queues)
        b->queue = ks_realloc(b->queue, (size_t)++b->queues, sizeof *b->queue);
    b->queue[place] = (ks_row_queue){.height = height, .width = width};
    return place;
}

/* Gives the memory of a queue that nobody uses back to the pool. */
static void clear_queue(ks_batcher *b, ks_row_queue *q)
{
    while (q->unused) {
        ks_row *row = q->unused;
        q->unused = row->next;
        ks_pool_put(b->pool, row->net.out, row_floats(b, q));
        free(row);
    }
    *q = (ks_row_queue){0};
}

static void trim_queues(ks_batcher *b)
{
    int sizes = 0;
    for (int i = 0; i < b->queues; i++)
        sizes += b->queue[i].height > 0;
    for (int i = 0; i < b->queues && sizes > KEPT_QUEUES; i++) {
        ks_row_queue *q = &b->queue[i];
        if (q->height == 0 || q->used > 0)
            continue;
        clear_queue(b, q);
        sizes--;
    }
}

/* --- rows --- */

void ks_batcher_channels(ks_batcher *b, int channels)
{
    if (channels == b->channels)
        return;
    ks_batcher_forget(b);
    ks_batcher_clear(b);
    b->channels = channels;
}

/* An unused row of the queue's size with its output's memory. */
static ks_row *new_row(ks_batcher *b, int queue, ks_error *err)
{
    ks_row_queue *q = &b->queue[queue];
    ks_row *row = q->unused;
    if (row) {
        q->unused = row->next;
        return row;
    }
    float *out = ks_pool_get(b->pool, row_floats(b, q), err);
    if (!out)
        return NULL;
    row = ks_calloc(1, sizeof *row);
    row->net.out = out;
    return row;
}

ks_row *ks_batcher_request(ks_batcher *b, const ks_net_row *net, const ks_hash128 *key, bool *saved,
                           ks_error *err)
{
    ks_row *row = key ? find(b, key) : NULL;
    *saved = row != NULL;
    if (row) {
        order_remove(b, row);
        order_add(b, row);
        row->refs++;
        return row;
    }
    int queue = queue_of(b, net->height, net->width);
    row = new_row(b, queue, err);
    if (!row)
        return NULL;
    ks_row_queue *q = &b->queue[queue];
    float *out = row->net.out;
    *row = (ks_row){.net = *net, .queue = queue, .since = b->calls, .refs = 1};
    row->net.out = out;
    *(q->first ? &q->last->next : &q->first) = row;
    q->last = row;
    q->waiting++;
    q->used++;
    b->waiting++;
    if (key)
        table_add(b, row, key);
    return row;
}

void ks_batcher_release(ks_batcher *b, ks_row *row)
{
    if (--row->refs > 0)
        return;
    ks_row_queue *q = &b->queue[row->queue];
    row->next = q->unused;
    q->unused = row;
    q->used--;
}

int ks_batcher_fullest(const ks_batcher *b)
{
    int most = 0;
    for (int i = 0; i < b->queues; i++)
        most = b->queue[i].waiting > most ? b->queue[i].waiting : most;
    return most;
}

/* Whether the rows of a queue should not wait for more of their size. */
static bool is_due(const ks_batcher *b, const ks_row_queue *q, int max)
{
    return q->waiting >= max || b->calls - q->first->since >= PATIENCE;
}

/* Whether one queue should be called before another; both have rows. */
static bool goes_before(const ks_batcher *b, const ks_row_queue *one, const ks_row_queue *other,
                        int max)
{
    bool due = is_due(b, one, max);
    if (due != is_due(b, other, max))
        return due;
    if (!due && one->waiting != other->waiting)
        return one->waiting > other->waiting;
    return one->first->since < other->first->since;
}

int ks_batcher_take(ks_batcher *b, ks_net_row *net, int max)
{
    ks_row_queue *q = NULL;
    for (int i = 0; i < b->queues; i++)
        if (b->queue[i].first && (!q || goes_before(b, &b->queue[i], q, max)))
            q = &b->queue[i];
    int n = 0;
    while (q && n < max && q->first) {
        ks_row *row = q->first;
        q->first = row->next;
        row->next = NULL;
        row->done = true;
        net[n++] = row->net;
    }
    if (q)
        q->waiting -= n;
    b->waiting -= n;
    b->calls++;
    trim_queues(b);
    return n;
}

void ks_batcher_forget(ks_batcher *b)
{
    for (int i = 0; i < b->queues; i++) {
        b->queue[i].first = b->queue[i].last = NULL;
        b->queue[i].waiting = 0;
    }
    b->waiting = 0;
    while (b->oldest)
        table_remove(b, b->oldest);
}

void ks_batcher_clear(ks_batcher *b)
{
    for (int i = 0; i < b->queues; i++)
        clear_queue(b, &b->queue[i]);
    free(b->queue);
    b->queue = NULL;
    b->queues = 0;
}
