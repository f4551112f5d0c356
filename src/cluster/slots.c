#include "cluster/slots.h"

#include <stdlib.h>

#include "base/file.h"

typedef struct slot {
    uint64_t id;   /* 0: free */
    uint64_t turn; /* that it was last asked for in */
} slot;

struct ks_slots {
    slot *slot;
    int count;
    uint64_t turn;
};

ks_slots *ks_slots_new(int count)
{
    ks_slots *s = ks_calloc(1, sizeof *s);
    s->slot = ks_calloc((size_t)count, sizeof *s->slot);
    s->count = count;
    return s;
}

void ks_slots_free(ks_slots *s)
{
    if (!s)
        return;
    free(s->slot);
    free(s);
}

void ks_slots_begin(ks_slots *s)
{
    s->turn++;
}

int ks_slots_of(ks_slots *s, uint64_t id, bool *is_new)
{
    int oldest = 0, at = 0;
    while (at < s->count && s->slot[at].id != id) {
        if (s->slot[at].turn < s->slot[oldest].turn)
            oldest = at;
        at++;
    }
    *is_new = at == s->count;
    at = *is_new ? oldest : at;
    s->slot[at] = (slot){id, s->turn};
    return at;
}
