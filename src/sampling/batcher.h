/* The rows that wait for a network call, and the memory of first rows that others may share.
 *
 * A call has rows of one height and width: those of every size wait in a queue of their own, oldest
 * first. A row with a key is computed once: whoever asks for the same key while it waits, or while
 * its output is remembered, gets the same row. Outputs are remembered least recently used first
 * out, within a limit. */
#ifndef KS_SAMPLING_BATCHER_H
#define KS_SAMPLING_BATCHER_H

#include <stdbool.h>

#include "backend/ops.h"
#include "base/hash.h"
#include "sampling/pool.h"

typedef struct ks_row {
    ks_net_row net; /* net.out: this row's own memory */
    int queue;      /* of its size */
    int64_t since;  /* calls made before it began to wait */
    bool done;      /* handed to the network: whatever is queued from now on finds its output */
    int refs;       /* lanes that wait for it or read it, and the memory of shared rows */
    bool shared;    /* in the table of keys */
    ks_hash128 key;
    struct ks_row *next;          /* waiting, or unused */
    struct ks_row *chain;         /* rows of the same bucket */
    struct ks_row *newer, *older; /* of the rows in the table */
} ks_row;

/* Rows of one size. */
typedef struct ks_row_queue {
    int height, width; /* 0: the queue is free for another size */
    ks_row *first, *last;
    int waiting, used; /* used: rows that somebody holds, the waiting ones included */
    ks_row *unused;
} ks_row_queue;

enum { KS_ROW_BUCKETS = 4096 };

typedef struct ks_batcher {
    ks_pool *pool;
    int channels; /* of every row */
    ks_row_queue *queue;
    int queues;
    int waiting; /* in all queues */
    int64_t calls;
    size_t share_bytes, shared_bytes;
    ks_row *bucket[KS_ROW_BUCKETS];
    ks_row *newest, *oldest;
} ks_batcher;

/* channels may change only while no row is in use. */
void ks_batcher_channels(ks_batcher *b, int channels);

/* A row of x, for the caller until ks_batcher_release; net.out is ignored. key: NULL for a row that
 * nobody shares. *saved: it was there already. NULL and err without device memory. */
ks_row *ks_batcher_request(ks_batcher *b, const ks_net_row *net, const ks_hash128 *key, bool *saved,
                           ks_error *err);
void ks_batcher_release(ks_batcher *b, ks_row *row);

/* Rows that wait in the fullest queue. */
int ks_batcher_fullest(const ks_batcher *b);

/* Takes the oldest waiting rows of one size, at most max, into net and calls them done; returns how
 * many. A size that fills the call, or that has long been passed over, comes first. What was queued
 * before must have been handed to the device: memory of sizes that nobody uses may go back. */
int ks_batcher_take(ks_batcher *b, ks_net_row *net, int max);

/* Forgets the waiting and the remembered rows. Lanes release theirs afterwards. */
void ks_batcher_forget(ks_batcher *b);

/* Gives all memory back to the pool, when every row has been forgotten and released. */
void ks_batcher_clear(ks_batcher *b);

#endif
