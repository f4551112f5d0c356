#include "fork_group.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What goes at once from each member to the others. */
enum { PIECE = 1 << 20 };

/* Members meet by counting their steps: all of a member's words before its count are there for whoever sees the count. */
typedef struct meeting_place {
    atomic_ulong steps[FORK_GROUP_RANKS];
    char piece[FORK_GROUP_RANKS][PIECE];
} meeting_place;

typedef struct member {
    ks_group group;
    meeting_place *meeting;
    unsigned long steps;
} member;

void *fork_group_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        abort();
    return memory;
}

void fork_group_free(void *memory, size_t bytes)
{
    munmap(memory, bytes);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void rest(long microseconds)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000 * microseconds}, NULL);
}

/* Waits until all have taken as many steps as this one does now. */
static int meet(member *m, ks_error *err)
{
    const double begin = now();
    atomic_store(&m->meeting->steps[m->group.rank], ++m->steps);
    for (int rank = 0; rank < m->group.size; rank++)
        while (atomic_load(&m->meeting->steps[rank]) < m->steps) {
            if (now() - begin > m->group.patience)
                return ks_error_set(err, "rank %d did not come within %g seconds", rank, m->group.patience);
            rest(20);
        }
    return 0;
}

static int gather(ks_group *g, const void *mine, size_t bytes, void *all, ks_error *err)
{
    member *m = g->self;
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        memcpy(m->meeting->piece[g->rank], (const char *)mine + at, n);
        if (meet(m, err) != 0)
            return -1;
        for (int rank = 0; rank < g->size; rank++)
            memcpy((char *)all + (size_t)rank * bytes + at, m->meeting->piece[rank], n);
        if (meet(m, err) != 0)
            return -1;
    }
    return 0;
}

static int broadcast(ks_group *g, void *data, size_t bytes, int root, ks_error *err)
{
    member *m = g->self;
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        if (g->rank == root)
            memcpy(m->meeting->piece[root], (char *)data + at, n);
        if (meet(m, err) != 0)
            return -1;
        if (g->rank != root)
            memcpy((char *)data + at, m->meeting->piece[root], n);
        if (meet(m, err) != 0)
            return -1;
    }
    return 0;
}

/* A member's life in its own process, which ends with the parent's. */
_Noreturn static void live(meeting_place *meeting, int rank, int size, double patience, int (*work)(ks_group *, void *), void *arg)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    member m = {.meeting = meeting};
    m.group = (ks_group){.rank = rank, .size = size, .patience = patience, .self = &m, .broadcast = broadcast, .gather = gather};
    int status = work(&m.group, arg);
    fflush(NULL);
    _exit(status);
}

static int status_of(int wait_status)
{
    return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 256 + WTERMSIG(wait_status);
}

fork_results fork_group_run(int size, double patience, double limit, int (*work)(ks_group *group, void *arg), void *arg)
{
    fork_results results;
    pid_t pid[FORK_GROUP_RANKS];
    meeting_place *meeting = fork_group_memory(sizeof *meeting);
    fflush(NULL);
    for (int rank = 0; rank < size; rank++) {
        pid[rank] = fork();
        if (pid[rank] < 0)
            abort();
        if (pid[rank] == 0)
            live(meeting, rank, size, patience, work, arg);
    }
    const double begin = now();
    for (int left = size; left > 0; rest(200))
        for (int rank = 0, status; rank < size; rank++) {
            if (pid[rank] > 0 && waitpid(pid[rank], &status, WNOHANG) == pid[rank]) {
                results.status[rank] = status_of(status);
                pid[rank] = 0;
                left--;
            } else if (pid[rank] > 0 && now() - begin > limit) {
                kill(pid[rank], SIGKILL);
            }
        }
    fork_group_free(meeting, sizeof *meeting);
    return results;
}
