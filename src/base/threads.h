/* A pool of threads for loops whose iterations are independent.
 *
 * Which thread runs which iteration is never decided by anything that could change a result: a task
 * must write only what belongs to its own index. */
#ifndef KS_BASE_THREADS_H
#define KS_BASE_THREADS_H

#include "base/error.h"

typedef struct ks_threads ks_threads;

/* count: threads in all, the caller included; 0: the CPUs this process may use. NULL on error. */
ks_threads *ks_threads_new(int count, ks_error *err);
void ks_threads_free(ks_threads *pool);
int ks_threads_count(const ks_threads *pool);

/* CPUs this process may run on (its affinity mask), at least 1. */
int ks_threads_available(void);

/* Which those are: bit i % 8 of byte i / 8 for CPU i, below `cpus`. */
void ks_threads_cpus(unsigned char *bits, int cpus);

/* Runs task(arg, index, worker) for every index in [0, n), and returns when all have ended.
 * worker is in [0, count): an index for per-thread scratch. Not to be called from within a task. */
void ks_threads_run(ks_threads *pool, int n, void (*task)(void *arg, int index, int worker),
                    void *arg);

#endif
