#include "cluster/comm_group.h"

#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/stop.h"
#include "cluster/comm_mpi.h"
#include "cluster/death.h"
#include "cluster/guard.h"
#include "ksweep/ksweep.h"

enum {
    MESSAGE_TAG = 1,
    ALARM_TAG = 2,
    PIECE = 1 << 20, /* bytes of a member in one MPI collective */
};

static const double SPIN_SECONDS = 0.05; /* a collective that takes longer waits asleep */

/* What broke a group, as its members tell each other. */
typedef struct alarm {
    int rank; /* in the run, of the one that found it out */
    ks_error why;
} alarm;

/* A message under way. */
typedef struct sending {
    struct sending *next;
    MPI_Request request;
    union {
        ks_message message;
        alarm alarm;
    } what;
} sending;

struct ks_comm_group {
    ks_group group;
    ks_comm *comm;
    ks_comm_group *within;
    MPI_Comm mpi;     /* MPI_COMM_NULL: this rank alone */
    int *rank;        /* [size] of each member in the run */
    sending *sendings;
    char *stage;      /* what MPI works on: it may still do so when a collective was given up */
    size_t stage_bytes;
    bool broken;
    ks_error why; /* it is broken */
    bool alarmed; /* the others have been told by this rank */
    int alarmer;  /* the member whose alarm broke it, or -1; */
    alarm heard;  /* that alarm */
};

/* --- what breaks a group --- */

/* Keeps the first cause, which is handed out from now on; returns -1. */
static int fail(ks_comm_group *g, ks_error *err, const char *why)
{
    if (!g->broken)
        ks_error_set(&g->why, "%s", why);
    g->broken = true;
    return ks_error_set(err, "%s", g->why.text);
}

static int fail_dead(ks_comm_group *g, int member, ks_error *err)
{
    ks_error why;
    ks_error_set(&why, "rank %d, which holds a part of the same model, has died", g->rank[member]);
    return fail(g, err, why.text);
}

/* An MPI call has failed with this code: 0 when it has not. */
static int check(ks_comm_group *g, int code, const char *what, ks_error *err)
{
    ks_error why = KS_ERROR_NONE;
    if (code == MPI_SUCCESS)
        return 0;
    if (!ks_death_is(code)) {
        ks_comm_failed(g->comm, &why, code, what, -1);
        return fail(g, err, why.text);
    }
    if (ks_comm_look_for_dead(g->comm, &why))
        return fail(g, err, why.text);
    for (int i = 0; i < g->group.size; i++) {
        if (ks_comm_is_dead(g->comm, g->rank[i]))
            return fail_dead(g, i, err);
    }
    return fail(g, err, "a rank that holds a part of the same model has died");
}

static int look_for_dead(ks_comm_group *g, ks_error *err)
{
    ks_error why = KS_ERROR_NONE;
    if (ks_comm_look_for_dead(g->comm, &why))
        return fail(g, err, why.text);
    for (int i = 0; i < g->group.size; i++) {
        if (ks_comm_is_dead(g->comm, g->rank[i]))
            return fail_dead(g, i, err);
    }
    return 0;
}

static int look_for_alarm(ks_comm_group *g, ks_error *err)
{
    int there = 0;
    alarm a;
    ks_error why;
    MPI_Status status;
    if (check(g, MPI_Iprobe(MPI_ANY_SOURCE, ALARM_TAG, g->mpi, &there, &status), "MPI_Iprobe", err))
        return -1;
    if (!there)
        return 0;
    if (check(g, MPI_Recv(&a, (int)sizeof a, MPI_BYTE, status.MPI_SOURCE, ALARM_TAG, g->mpi, MPI_STATUS_IGNORE), "MPI_Recv",
              err))
        return -1;
    a.why.text[sizeof a.why.text - 1] = 0;
    ks_error_set(&why, "rank %d: %s", a.rank, a.why.text);
    g->alarmer = status.MPI_SOURCE;
    g->heard = a;
    return fail(g, err, why.text);
}

/* A run that is to stop does not wait for a member that hangs as long as it would otherwise. */
static int look_for_stop(ks_comm_group *g, ks_error *err)
{
    if (ks_stop_age() <= KS_STOP_SECONDS)
        return 0;
    return fail(g, err, "ranks that hold one model still wait for each other a minute after the run was asked to stop");
}

int ks_comm_group_look(ks_comm_group *g, ks_error *err)
{
    if (g->broken)
        return fail(g, err, g->why.text);
    if (g->within && ks_comm_group_look(g->within, err))
        return fail(g, err, g->within->why.text);
    if (g->mpi == MPI_COMM_NULL)
        return 0;
    return look_for_dead(g, err) || look_for_alarm(g, err) || look_for_stop(g, err) ? -1 : 0;
}

static int look(ks_group *group, ks_error *err)
{
    return ks_comm_group_look(group->self, err);
}

/* --- collectives --- */

/* Somebody has not come. */
static int fail_late(ks_comm_group *g, int root, ks_error *err)
{
    ks_error why;
    const ks_group *group = &g->group;
    int other = root >= 0 && root != group->rank ? root : group->size == 2 ? 1 - group->rank : -1;
    if (other >= 0)
        ks_error_set(&why, "rank %d, which holds a part of the same model, has not come to a network call within %.0f s, as if it hangs",
                     g->rank[other], group->patience);
    else
        ks_error_set(&why, "one of the ranks %d to %d, which hold one model, has not come to a network call within %.0f s, as if it hangs",
                     g->rank[0], g->rank[group->size - 1], group->patience);
    return fail(g, err, why.text);
}

/* Waits for a collective, without keeping a CPU from ranks that still work. Only the time of its own turns counts, as this rank may
 * have been stopped itself. root: who sends, or -1. */
static int await(ks_comm_group *g, MPI_Request *request, int root, const char *what, ks_error *err)
{
    double waited = 0, last = ks_seconds();
    for (int done = 0; waited < g->group.patience;) {
        if (check(g, MPI_Test(request, &done, MPI_STATUS_IGNORE), what, err))
            return -1;
        if (done)
            return 0;
        if (ks_comm_group_look(g, err))
            return -1;
        if (waited < SPIN_SECONDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
        double now = ks_seconds();
        waited += fmin(now - last, 0.1);
        last = now;
    }
    return fail_late(g, root, err);
}

/* Room for so many bytes on which MPI may work. */
static char *stage(ks_comm_group *g, size_t bytes)
{
    if (bytes > g->stage_bytes) {
        free(g->stage);
        g->stage = ks_calloc(bytes, 1);
        g->stage_bytes = bytes;
    }
    return g->stage;
}

static size_t piece_at(size_t at, size_t bytes)
{
    return bytes - at < PIECE ? bytes - at : PIECE;
}

static int broadcast(ks_group *group, void *data, size_t bytes, int root, ks_error *err)
{
    ks_comm_group *g = group->self;
    if (ks_comm_group_look(g, err))
        return -1;
    if (group->size == 1)
        return 0;
    for (size_t at = 0, n; at < bytes; at += n) {
        MPI_Request request;
        n = piece_at(at, bytes);
        char *work = stage(g, n);
        if (group->rank == root)
            memcpy(work, (char *)data + at, n);
        if (check(g, MPI_Ibcast(work, (int)n, MPI_BYTE, root, g->mpi, &request), "MPI_Ibcast", err) ||
            await(g, &request, root, "MPI_Ibcast", err))
            return -1;
        if (group->rank != root)
            memcpy((char *)data + at, work, n);
    }
    return 0;
}

static int gather(ks_group *group, const void *mine, size_t bytes, void *all, ks_error *err)
{
    ks_comm_group *g = group->self;
    size_t size = (size_t)group->size;
    if (ks_comm_group_look(g, err))
        return -1;
    if (size == 1) {
        memmove(all, mine, bytes);
        return 0;
    }
    for (size_t at = 0, n; at < bytes; at += n) {
        MPI_Request request;
        n = piece_at(at, bytes);
        char *work = stage(g, n * (size + 1)), *own = work + n * size;
        memcpy(own, (const char *)mine + at, n);
        if (check(g, MPI_Iallgather(own, (int)n, MPI_BYTE, work, (int)n, MPI_BYTE, g->mpi, &request), "MPI_Iallgather", err) ||
            await(g, &request, -1, "MPI_Iallgather", err))
            return -1;
        for (size_t i = 0; i < size; i++)
            memcpy((char *)all + i * bytes + at, work + i * n, n);
    }
    return 0;
}

/* --- messages --- */

/* Forgets the messages that have left. */
static int progress(ks_comm_group *g, ks_error *err)
{
    for (sending **at = &g->sendings, *s; (s = *at);) {
        int done = 0;
        if (check(g, MPI_Test(&s->request, &done, MPI_STATUS_IGNORE), "MPI_Isend", err))
            return -1;
        if (done) {
            *at = s->next;
            free(s);
        } else {
            at = &s->next;
        }
    }
    return 0;
}

/* Begins to send to one member. */
static int post(ks_comm_group *g, int member, int tag, const void *what, size_t bytes, ks_error *err)
{
    sending *s = ks_calloc(1, sizeof *s);
    memcpy(&s->what, what, bytes);
    int code = MPI_Isend(&s->what, (int)bytes, MPI_BYTE, member, tag, g->mpi, &s->request);
    if (code != MPI_SUCCESS) {
        free(s);
        return check(g, code, "MPI_Isend", err);
    }
    s->next = g->sendings;
    g->sendings = s;
    return 0;
}

int ks_comm_group_send(ks_comm_group *g, const ks_message *m, ks_error *err)
{
    if (ks_comm_group_look(g, err))
        return -1;
    for (int i = 0; i < g->group.size; i++) {
        if (i != g->group.rank && post(g, i, MESSAGE_TAG, m, sizeof *m, err))
            return -1;
    }
    return progress(g, err);
}

int ks_comm_group_receive(ks_comm_group *g, int *from, ks_message *m, ks_error *err)
{
    int there = 0;
    MPI_Status status;
    if (ks_comm_group_look(g, err) || progress(g, err))
        return -1;
    if (g->mpi == MPI_COMM_NULL)
        return 0;
    if (check(g, MPI_Iprobe(MPI_ANY_SOURCE, MESSAGE_TAG, g->mpi, &there, &status), "MPI_Iprobe", err))
        return -1;
    if (!there)
        return 0;
    *from = status.MPI_SOURCE;
    return check(g, MPI_Recv(m, (int)sizeof *m, MPI_BYTE, *from, MESSAGE_TAG, g->mpi, MPI_STATUS_IGNORE), "MPI_Recv", err) ? -1 : 1;
}

void ks_comm_group_alarm(ks_comm_group *g, const char *why)
{
    alarm a = {.rank = g->rank[g->group.rank]};
    ks_error ignored = KS_ERROR_NONE;
    if (g->alarmed)
        return;
    g->alarmed = true;
    ks_error_set(&a.why, "%s", why);
    if (g->alarmer >= 0)
        a = g->heard;
    for (int i = 0; i < g->group.size && g->mpi != MPI_COMM_NULL; i++) {
        if (i != g->group.rank && !ks_comm_is_dead(g->comm, g->rank[i]))
            post(g, i, ALARM_TAG, &a, sizeof a, &ignored);
    }
    fail(g, &ignored, why);
}

bool ks_comm_group_alarmed_by(ks_comm_group *g, int member, double seconds)
{
    int there = g->alarmer == member;
    for (double begin = ks_seconds(); !there && g->mpi != MPI_COMM_NULL && ks_seconds() - begin < seconds;) {
        if (MPI_Iprobe(member, ALARM_TAG, g->mpi, &there, MPI_STATUS_IGNORE) != MPI_SUCCESS)
            return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return there;
}

bool ks_comm_group_broken(const ks_comm_group *g)
{
    return g->broken;
}

/* --- the group itself --- */

ks_group *ks_comm_group_of(ks_comm_group *g)
{
    return &g->group;
}

int ks_comm_group_rank(const ks_comm_group *g, int member)
{
    return g->rank[member];
}

/* MPI_Comm_split has no time limit of its own. */
static int split(ks_comm_group *g, int color, ks_error *err)
{
    ks_guard guard;
    int rank = ks_comm_rank(g->comm);
    ks_guard_start(&guard, ks_comm_patience(g->comm), KS_EXIT_RESUMABLE, "the meeting of the ranks that hold one model");
    int code = MPI_Comm_split(ks_comm_mpi(g->comm), color, rank, &g->mpi);
    ks_guard_end(&guard);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_set_errhandler(g->mpi, MPI_ERRORS_RETURN);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_rank(g->mpi, &g->group.rank);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_size(g->mpi, &g->group.size);
    g->rank = ks_calloc((size_t)g->group.size, sizeof *g->rank);
    g->rank[g->group.rank] = rank;
    if (code == MPI_SUCCESS)
        return g->group.size == 1 ? 0 : gather(&g->group, &rank, sizeof rank, g->rank, err);
    return ks_comm_failed(g->comm, err, code, "MPI_Comm_split", -1);
}

ks_comm_group *ks_comm_group_new(ks_comm *comm, int color, ks_comm_group *within, double patience, ks_error *err)
{
    ks_comm_group *g = ks_calloc(1, sizeof *g);
    *g = (ks_comm_group){.comm = comm, .within = within, .mpi = MPI_COMM_NULL, .alarmer = -1};
    g->group = (ks_group){.size = 1, .patience = patience, .self = g, .broadcast = broadcast, .gather = gather, .look = look};
    if (ks_comm_mpi(comm) == MPI_COMM_NULL) {
        g->rank = ks_calloc(1, sizeof *g->rank);
        return g;
    }
    if (!split(g, color, err))
        return g;
    ks_comm_group_free(g);
    return NULL;
}

/* Waits a little for the last messages to leave. */
static void flush(ks_comm_group *g)
{
    ks_error ignored = KS_ERROR_NONE;
    for (double begin = ks_seconds(); g->sendings && ks_seconds() - begin < 1;) {
        if (progress(g, &ignored))
            return;
        sched_yield();
    }
}

void ks_comm_group_free(ks_comm_group *g)
{
    if (!g)
        return;
    flush(g);
    if (!g->broken && !g->sendings) {
        if (g->mpi != MPI_COMM_NULL)
            MPI_Comm_free(&g->mpi);
        free(g->stage);
    }
    free(g->rank);
    free(g);
}
