#include "cluster/worker.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"

enum message_kind {
    MESSAGE_ASK = 1,   /* worker -> 0: a room */
    MESSAGE_LEASE,     /* 0 -> worker: a first, b count */
    MESSAGE_LATER,     /* 0 -> worker: all is lent out */
    MESSAGE_FINISHED,  /* 0 -> worker: every point is done */
    MESSAGE_POINT,     /* worker -> 0: a point, flags failed, b rows, c saved */
    MESSAGE_EXPECT,    /* worker -> 0: a microseconds that a point will take */
    MESSAGE_WANT_STOP, /* worker -> 0: a signal came */
    MESSAGE_STOP,      /* 0 -> worker: drop what is in flight */
    MESSAGE_ENDED,     /* worker -> 0: flags outcome + 1, b rows, c saved */
    MESSAGE_RELEASE,   /* 0 -> worker: the run is over, a outcome + 1 */
};

typedef struct lease {
    uint64_t next, end;
} lease;

enum { LEASES = 4 };

/* Points in some order, without doubles. */
typedef struct point_set {
    uint64_t *point;
    int count, room;
} point_set;

typedef struct peer { /* what rank 0 knows of a rank */
    double rows, saved;
    bool ended;
} peer;

struct ks_worker {
    ks_comm *comm;
    ks_coordinator *coordinator;
    int room;
    lease queue[LEASES];
    int leases;
    point_set flying;  /* handed out by ks_worker_next, not done yet */
    point_set skipped; /* lent to this rank a second time while they were flying */
    bool asked, finished, stopped, told_signal, released, answered, later;
    double ask_again;
    int outcome;      /* of the run, once released */
    int ended, worst; /* rank 0: ranks that have ended, and the run's outcome so far */
    peer *peers;
};

static int find_point(const point_set *set, uint64_t point)
{
    for (int i = 0; i < set->count; i++) {
        if (set->point[i] == point)
            return i;
    }
    return -1;
}

static void add_point(point_set *set, uint64_t point)
{
    if (find_point(set, point) >= 0)
        return;
    if (set->count == set->room) {
        set->room = set->room ? 2 * set->room : 16;
        set->point = ks_realloc(set->point, (size_t)set->room, sizeof *set->point);
    }
    set->point[set->count++] = point;
}

/* Whether it was there. */
static bool remove_point(point_set *set, uint64_t point)
{
    int i = find_point(set, point);
    if (i >= 0)
        set->point[i] = set->point[--set->count];
    return i >= 0;
}

ks_worker *ks_worker_new(ks_comm *comm, ks_coordinator *coordinator, int room)
{
    ks_worker *w = ks_calloc(1, sizeof *w);
    w->comm = comm;
    w->coordinator = coordinator;
    w->room = room > 0 ? room : 1;
    w->peers = ks_calloc((size_t)ks_comm_size(comm), sizeof *w->peers);
    return w;
}

void ks_worker_free(ks_worker *w)
{
    if (!w)
        return;
    free(w->flying.point);
    free(w->skipped.point);
    free(w->peers);
    free(w);
}

static uint64_t queued(const ks_worker *w)
{
    uint64_t points = 0;
    for (int i = 0; i < w->leases; i++)
        points += w->queue[i].end - w->queue[i].next;
    return points;
}

int ks_worker_next(ks_worker *w, uint64_t *point)
{
    while (w->leases && !w->stopped) {
        lease *l = &w->queue[0];
        *point = l->next++;
        if (l->next == l->end)
            memmove(w->queue, w->queue + 1, sizeof *w->queue * (size_t)--w->leases);
        if (remove_point(&w->skipped, *point))
            continue;
        add_point(&w->flying, *point);
        return 1;
    }
    return 0;
}

int ks_worker_peek(const ks_worker *w, uint64_t k, uint64_t *point)
{
    for (int i = 0; i < w->leases; i++) {
        uint64_t count = w->queue[i].end - w->queue[i].next;
        if (k < count) {
            *point = w->queue[i].next + k;
            return 1;
        }
        k -= count;
    }
    return 0;
}

static int send_to(ks_worker *w, int rank, enum message_kind kind, uint64_t a, uint64_t b, ks_error *err)
{
    ks_message m = {.kind = kind, .a = a, .b = b};
    return ks_comm_send(w->comm, rank, &m, err);
}

static int answer_ask(ks_worker *w, int rank, int room, ks_error *err)
{
    uint64_t first = 0, count = 0;
    switch (ks_coordinator_ask(w->coordinator, rank, room, ks_seconds(), &first, &count)) {
    case KS_LEASE_GRANTED:
        return send_to(w, rank, MESSAGE_LEASE, first, count, err);
    case KS_LEASE_LATER:
        return send_to(w, rank, MESSAGE_LATER, 0, 0, err);
    default:
        return send_to(w, rank, MESSAGE_FINISHED, 0, 0, err);
    }
}

static int stop_all(ks_worker *w, ks_error *err)
{
    if (w->told_signal)
        return 0;
    w->told_signal = true;
    for (int rank = 0; rank < ks_comm_size(w->comm); rank++) {
        if (send_to(w, rank, MESSAGE_STOP, 0, 0, err))
            return -1;
    }
    return 0;
}

static int worse(int a, int b)
{
    return a < 0 || b < 0 ? -1 : a > b ? a : b;
}

static void note_rows(ks_worker *w, int from, const ks_message *m)
{
    w->peers[from].rows = (double)m->b;
    w->peers[from].saved = (double)m->c;
}

/* Rank 0: a rank has left its engine; when it failed or was stopped, so are the others. One that lost its device leaves its points
 * to them. */
static int note_end(ks_worker *w, int from, const ks_message *m, ks_error *err)
{
    int outcome = (int)m->flags - 1;
    if (!w->peers[from].ended) {
        w->peers[from].ended = true;
        w->ended++;
    }
    note_rows(w, from, m);
    if (!outcome)
        return 0;
    ks_coordinator_lost(w->coordinator, from, ks_seconds());
    if (outcome == KS_WORKER_LOST)
        return 0;
    w->worst = worse(w->worst, outcome);
    return stop_all(w, err);
}

static void take_lease(ks_worker *w, const ks_message *m)
{
    w->asked = false;
    w->answered = true;
    w->later = false;
    if (!m->b || w->leases == LEASES)
        return;
    w->queue[w->leases++] = (lease){m->a, m->a + m->b};
    for (int i = 0; i < w->flying.count; i++) {
        if (w->flying.point[i] - m->a < m->b)
            add_point(&w->skipped, w->flying.point[i]);
    }
}

static int handle(ks_worker *w, int from, const ks_message *m, ks_error *err)
{
    switch (m->kind) {
    case MESSAGE_ASK:
        return answer_ask(w, from, (int)m->a, err);
    case MESSAGE_POINT:
        ks_coordinator_finished(w->coordinator, from, m->a, m->flags != 0, ks_seconds());
        note_rows(w, from, m);
        return 0;
    case MESSAGE_EXPECT:
        ks_coordinator_expect(w->coordinator, from, 1e-6 * (double)m->a);
        return 0;
    case MESSAGE_WANT_STOP:
        return stop_all(w, err);
    case MESSAGE_ENDED:
        return note_end(w, from, m, err);
    case MESSAGE_LEASE:
        take_lease(w, m);
        return 0;
    case MESSAGE_LATER:
        w->asked = false;
        w->answered = w->later = true;
        w->ask_again = ks_seconds() + 0.05 + 50e-6 * ks_comm_size(w->comm);
        return 0;
    case MESSAGE_FINISHED:
        w->answered = w->finished = true;
        return 0;
    case MESSAGE_STOP:
        w->stopped = true;
        return 0;
    case MESSAGE_RELEASE:
        w->released = true;
        w->outcome = (int)m->a - 1;
        return 0;
    default:
        return ks_error_set(err, "rank %d sent a message of unknown kind %u: do all ranks run the same ksweep?", from, m->kind);
    }
}

/* Takes every message that waits; *any tells whether there was one. */
static int serve(ks_worker *w, bool *any, ks_error *err)
{
    ks_message m;
    int from, got;
    *any = false;
    while ((got = ks_comm_receive(w->comm, &from, &m, err)) > 0) {
        *any = true;
        if (handle(w, from, &m, err))
            return -1;
    }
    return got;
}

/* Asks for more when what is queued would not fill the rank once more. */
static int ask_ahead(ks_worker *w, ks_error *err)
{
    bool wants = !w->asked && !w->finished && !w->stopped && w->leases < LEASES && queued(w) < (uint64_t)w->room &&
                 ks_seconds() >= w->ask_again;
    if (!wants)
        return 0;
    w->asked = true;
    return send_to(w, 0, MESSAGE_ASK, (uint64_t)w->room, 0, err);
}

static int tell_signal(ks_worker *w, ks_error *err)
{
    if (!ks_stop_requested() || w->told_signal || w->stopped)
        return 0;
    if (w->coordinator)
        return stop_all(w, err);
    w->told_signal = true;
    return send_to(w, 0, MESSAGE_WANT_STOP, 0, 0, err);
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

int ks_worker_poll(ks_worker *w, bool idle, bool *finished, ks_error *err)
{
    bool any;
    if (tell_signal(w, err) || ask_ahead(w, err) || serve(w, &any, err))
        return -1;
    if (w->coordinator) {
        int expired = ks_coordinator_expire(w->coordinator, ks_seconds());
        if (expired)
            ks_log_warn("%d leases ran past their deadline and are lent again", expired);
    }
    if (w->stopped)
        return 1;
    *finished = w->finished && !w->leases;
    if (idle && !any && !*finished)
        nap();
    return 0;
}

int ks_worker_done(ks_worker *w, uint64_t point, bool failed, double rows, double saved, ks_error *err)
{
    peer *self = &w->peers[ks_comm_rank(w->comm)];
    self->rows = rows;
    self->saved = saved;
    remove_point(&w->flying, point);
    ks_message m = {.kind = MESSAGE_POINT, .flags = failed, .a = point, .b = (uint64_t)rows, .c = (uint64_t)saved};
    return ks_comm_send(w->comm, 0, &m, err);
}

int ks_worker_expect(ks_worker *w, double point_seconds, ks_error *err)
{
    return send_to(w, 0, MESSAGE_EXPECT, (uint64_t)(1e6 * point_seconds), 0, err);
}

/* The last message of a rank's rendering; the rows are what it told last. */
static int tell_end(ks_worker *w, int outcome, ks_error *err)
{
    const peer *self = &w->peers[ks_comm_rank(w->comm)];
    ks_message m = {.kind = MESSAGE_ENDED, .flags = (uint32_t)(outcome + 1), .b = (uint64_t)self->rows,
                    .c = (uint64_t)self->saved};
    return ks_comm_send(w->comm, 0, &m, err);
}

/* Serves messages until *until holds. */
static int serve_until(ks_worker *w, bool (*until)(const ks_worker *w), ks_error *err)
{
    while (!until(w)) {
        bool any;
        if (tell_signal(w, err) || serve(w, &any, err))
            return -1;
        if (w->coordinator)
            ks_coordinator_expire(w->coordinator, ks_seconds());
        if (!any)
            nap();
    }
    return 0;
}

static bool all_ended(const ks_worker *w)
{
    return w->ended == ks_comm_size(w->comm);
}

static bool is_released(const ks_worker *w)
{
    return w->released;
}

int ks_worker_end(ks_worker *w, int outcome, ks_error *err)
{
    if (tell_end(w, outcome, err))
        return -1;
    if (!w->coordinator)
        return outcome;
    if (serve_until(w, all_ended, err))
        return -1;
    return w->worst || ks_coordinator_complete(w->coordinator) ? w->worst : KS_WORKER_LOST;
}

int ks_worker_release(ks_worker *w, int outcome, ks_error *err)
{
    for (int rank = 1; rank < ks_comm_size(w->comm); rank++) {
        if (send_to(w, rank, MESSAGE_RELEASE, (uint64_t)(outcome + 1), 0, err))
            return -1;
    }
    return 0;
}

int ks_worker_wait(ks_worker *w, int *outcome, ks_error *err)
{
    if (serve_until(w, is_released, err))
        return -1;
    *outcome = w->outcome;
    return 0;
}

bool ks_worker_ready(const ks_worker *w)
{
    return w->answered || w->stopped;
}

bool ks_worker_dry(const ks_worker *w)
{
    return !w->leases && (w->finished || w->later);
}

void ks_worker_rows(const ks_worker *w, double *rows, double *saved)
{
    *rows = *saved = 0;
    for (int i = 0; i < ks_comm_size(w->comm); i++) {
        *rows += w->peers[i].rows;
        *saved += w->peers[i].saved;
    }
}
