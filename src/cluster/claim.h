/* Who writes an output: files in OUT.d that say so, for file systems without locks too.
 *
 * A run claims the whole output (OUT.d/run.lock) or, with --shard I/N, a part of it
 * (OUT.d/part-I-of-N.lock); several parts may be claimed at once, the whole only alone. A claim is
 * a file made with O_EXCL that names host, process and boot, and whose time a thread renews every
 * few seconds. It is void when its process is dead, where that can be seen (same boot and process
 * namespace), or else when its time has stood still for two minutes. Void claims are taken over.
 *
 * Only one rank of a run claims. */
#ifndef KS_CLUSTER_CLAIM_H
#define KS_CLUSTER_CLAIM_H

#include <stdbool.h>

#include "base/error.h"

typedef struct ks_claim ks_claim;

/* In seconds. NULL stands for 10, 120 and 5. */
typedef struct ks_claim_times {
    double renew, stale;
    double patience; /* for a run that may just be ending */
} ks_claim_times;

/* Claims part I of N (parts 0: the whole). Makes OUT.d where it is missing. Waits while another
 * host's claim may be void, and while a finished output is being collected. Fails with who else
 * holds it. */
ks_claim *ks_claim_open(const char *output, int part, int parts, const ks_claim_times *times,
                        ks_error *err);

/* Fails when somebody else has taken the claim over (this process was stopped for minutes). */
int ks_claim_check(const ks_claim *c, ks_error *err);

/* A part that has written its last row hands its claim back, for that of collecting: 1 when nobody
 * writes or collects now; 0 when others do, the last of whom will see to it; -1 failed. who (0):
 * the others, as text; free() it. */
int ks_claim_collect(ks_claim *c, char **who, ks_error *err);

/* Removes the claim, and OUT.d when nothing else is in it. NULL is fine. */
void ks_claim_close(ks_claim *c);

#endif
