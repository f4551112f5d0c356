#include "cluster/deadlines.h"

#include <stdlib.h>

#include "base/file.h"

static void put(ks_deadlines *d, size_t place, ks_deadline *entry)
{
    d->heap[place] = entry;
    entry->place = place;
}

/* Moves the entry to where its time belongs. */
static void settle(ks_deadlines *d, ks_deadline *entry)
{
    size_t place = entry->place;
    while (place && d->heap[(place - 1) / 2]->at > entry->at) {
        put(d, place, d->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (size_t child; (child = 2 * place + 1) < d->count; place = child) {
        if (child + 1 < d->count && d->heap[child + 1]->at < d->heap[child]->at)
            child++;
        if (d->heap[child]->at >= entry->at)
            break;
        put(d, place, d->heap[child]);
    }
    put(d, place, entry);
}

void ks_deadlines_insert(ks_deadlines *d, ks_deadline *entry)
{
    if (d->count == d->room) {
        d->room = d->room ? 2 * d->room : 64;
        d->heap = ks_realloc(d->heap, d->room, sizeof *d->heap);
    }
    put(d, d->count++, entry);
    settle(d, entry);
}

void ks_deadlines_remove(ks_deadlines *d, ks_deadline *entry)
{
    ks_deadline *last = d->heap[--d->count];
    if (last == entry)
        return;
    put(d, entry->place, last);
    settle(d, last);
}

void ks_deadlines_move(ks_deadlines *d, ks_deadline *entry, double at)
{
    entry->at = at;
    settle(d, entry);
}

ks_deadline *ks_deadlines_first(const ks_deadlines *d)
{
    return d->count ? d->heap[0] : NULL;
}

void ks_deadlines_free(ks_deadlines *d)
{
    free(d->heap);
    *d = (ks_deadlines){0};
}
