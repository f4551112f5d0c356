/* Ends this process when it stays too long in a call that cannot be left: MPI's own start and end do not come back when a rank has
 * died in them, and nobody tells. */
#ifndef KS_CLUSTER_GUARD_H
#define KS_CLUSTER_GUARD_H

#include <pthread.h>
#include <stdbool.h>

typedef struct ks_guard {
    pthread_t thread;
    bool running;
    double seconds;
    int code;
    const char *what;
} ks_guard;

/* After so many seconds the process ends with the exit code, and the log says that `what` did not end in time. g stays where it is
 * until ks_guard_end, which calls this off. */
void ks_guard_start(ks_guard *g, double seconds, int code, const char *what);
void ks_guard_end(ks_guard *g);

#endif
