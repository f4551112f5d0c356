#include "cluster/failures.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"

/* The reason's place; a new one takes the next, the last is for all that have none of their own. */
static int place_of(ks_failures *f, const char *reason)
{
    int i = 0;
    while (i < KS_FAILURES_REASONS && f->item[i].reason && strcmp(f->item[i].reason, reason) != 0)
        i++;
    if (!f->item[i].reason)
        f->item[i].reason = ks_strdup(i < KS_FAILURES_REASONS ? reason : "other reasons");
    return i;
}

void ks_failures_add(ks_failures *f, uint64_t first, uint64_t count, const char *reason)
{
    int i = place_of(f, reason);
    if (f->item[i].told == KS_FAILURES_TOLD) {
        f->item[i].more += count;
        return;
    }
    f->item[i].told++;
    ks_log_warn("sample %llu failed: %s", (unsigned long long)first, reason);
}

void ks_failures_end(ks_failures *f)
{
    for (int i = 0; i <= KS_FAILURES_REASONS; i++) {
        if (f->item[i].more)
            ks_log_warn("%llu more samples failed: %s", (unsigned long long)f->item[i].more, f->item[i].reason);
        free(f->item[i].reason);
    }
    *f = (ks_failures){0};
}
