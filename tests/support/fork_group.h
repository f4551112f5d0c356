/* Processes that work on one thing together, for tests: forked, with a ks_group over memory that they share. */
#ifndef TESTS_SUPPORT_FORK_GROUP_H
#define TESTS_SUPPORT_FORK_GROUP_H

#include <stddef.h>

#include "backend/group.h"

enum { FORK_GROUP_RANKS = 8 };

/* What became of the members: exit statuses, or 256 + the signal that ended them. */
typedef struct fork_results {
    int status[FORK_GROUP_RANKS];
} fork_results;

/* Runs member(group, arg) in `size` new processes and waits for them all; what it returns is its exit status. patience: the
 * group's, in seconds. Ends all of them, and counts them as ended by SIGKILL, when they have not come to an end after `limit`
 * seconds. */
fork_results fork_group_run(int size, double patience, double limit, int (*member)(ks_group *group, void *arg), void *arg);

/* Zeroed memory that the members share with the caller; fork_group_free it. */
void *fork_group_memory(size_t bytes);
void fork_group_free(void *memory, size_t bytes);

#endif
