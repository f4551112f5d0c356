/* Which of many deadlines comes first: a binary heap whose entries know their places, so that any
 * can be moved or removed in O(log n). Entries are embedded by their owners. */
#ifndef KS_CLUSTER_DEADLINES_H
#define KS_CLUSTER_DEADLINES_H

#include <stddef.h>

typedef struct ks_deadline {
    double at; /* seconds; change it only with ks_deadlines_move while in the heap */
    size_t place;
} ks_deadline;

typedef struct ks_deadlines {
    ks_deadline **heap;
    size_t count, room;
} ks_deadlines;

void ks_deadlines_insert(ks_deadlines *d, ks_deadline *entry); /* aborts when there is no memory */
void ks_deadlines_remove(ks_deadlines *d, ks_deadline *entry);
void ks_deadlines_move(ks_deadlines *d, ks_deadline *entry, double at);
ks_deadline *ks_deadlines_first(const ks_deadlines *d); /* NULL: there is none */
void ks_deadlines_free(ks_deadlines *d);                /* the heap, not the entries */

#endif
