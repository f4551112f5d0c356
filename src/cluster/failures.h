/* The log of failed samples: a reason is told for its first samples, and counted for the others. */
#ifndef KS_CLUSTER_FAILURES_H
#define KS_CLUSTER_FAILURES_H

#include <stdint.h>

enum { KS_FAILURES_TOLD = 10, KS_FAILURES_REASONS = 16 };

/* Reasons behind the first KS_FAILURES_REASONS are counted together. {0} at start. */
typedef struct ks_failures {
    struct {
        char *reason;
        int told;
        uint64_t more; /* samples that no line was written for */
    } item[KS_FAILURES_REASONS + 1];
} ks_failures;

/* Samples first to first + count - 1, of one KSampler call, failed. */
void ks_failures_add(ks_failures *f, uint64_t first, uint64_t count, const char *reason);

/* Logs how many more failed for each reason, and begins anew. */
void ks_failures_end(ks_failures *f);

#endif
