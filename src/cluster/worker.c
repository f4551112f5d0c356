#include "cluster/worker.h"

#include <math.h>
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
    MESSAGE_SUMS,      /* worker -> 0: flags the place of the first, a to d doubles */
    MESSAGE_ENDED,     /* worker -> 0: flags outcome + 1, b rows, c saved */
    MESSAGE_RELEASE,   /* 0 -> worker: the run is over, a outcome + 1, b some rank hangs, c speaker, d failures */
    MESSAGE_ALIVE,     /* worker -> 0: no more than that */
};

enum {
    PATIENCE = 4,      /* times what a point should take, for rank 0's answer; */
    PARTING = 60,      /* seconds more where it may have to part from a member of its replica that hangs */
    SUMS_A_MESSAGE = 4,
    SIGNS_OF_LIFE = 8, /* in the time after which a silent rank is given up */
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

typedef struct ended_point {
    uint64_t point;
    bool failed;
} ended_point;

typedef struct peer { /* what rank 0 knows of a rank */
    double rows, saved, sums[KS_WORKER_SUMS];
    double heard;  /* when it last said something */
    uint64_t late; /* leases past their deadline that the log tells of */
    bool ended;    /* its rendering: by its own word, or because it is dead or given up */
    bool failed;   /* by its own word */
} peer;

struct ks_worker {
    ks_comm *comm;
    ks_coordinator *coordinator;
    int replica; /* ranks of one */
    int room;
    lease queue[LEASES];
    int leases;
    point_set flying;  /* handed out by ks_worker_next; rank 0 has not heard of their end */
    ended_point *over; /* those of them that have ended, in order */
    int overs, over_room;
    point_set skipped; /* lent to this rank a second time while they were flying */
    bool asked, finished, stopped, told_signal, released, answered, later;
    double ask_again;
    double deadline, expected; /* seconds, for rank 0's answer; that a point takes */
    double waited;             /* for that answer, in naps */
    double said;               /* when this rank last told that it lives */
    double stop_time;          /* rank 0: when a stop was asked for, or when it told all to */
    bool given_up, deaths;     /* rank 0: some rank hangs; is dead */
    int outcome;      /* of the run, once released */
    int ended, worst; /* rank 0: ranks that have ended, and the run's outcome so far */
    int speaker, failures; /* once released: the rank that says why the run failed, and how many did */
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

ks_worker *ks_worker_new(ks_comm *comm, ks_coordinator *coordinator, int replica, int room, double deadline)
{
    ks_worker *w = ks_calloc(1, sizeof *w);
    w->comm = comm;
    w->coordinator = coordinator;
    w->replica = replica;
    w->room = room > 0 ? room : 1;
    w->deadline = deadline;
    w->peers = ks_calloc((size_t)ks_comm_size(comm), sizeof *w->peers);
    for (int rank = 0; rank < ks_comm_size(comm); rank++)
        w->peers[rank].heard = ks_seconds();
    return w;
}

void ks_worker_free(ks_worker *w)
{
    if (!w)
        return;
    free(w->flying.point);
    free(w->over);
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
    for (int i = 0; i < w->leases && !w->skipped.count; i++) {
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
    switch (ks_coordinator_ask(w->coordinator, rank / w->replica, room, ks_seconds(), &first, &count)) {
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
    w->stop_time = ks_seconds() - fmax(ks_stop_age(), 0);
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

/* Rank 0: nothing more is waited for from this rank, whose points are for the others; false: that was so before. The points are
 * those of its replica, which the first rank speaks for. */
static bool count_out(ks_worker *w, int rank)
{
    if (w->peers[rank].ended)
        return false;
    if (rank % w->replica == 0)
        ks_coordinator_lost(w->coordinator, rank / w->replica, ks_seconds());
    w->peers[rank].ended = true;
    w->ended++;
    return true;
}

/* Rank 0: a rank has left its engine; when it failed or was stopped, so are the others. One that lost its device leaves its points
 * to them; of a replica that is lost the first rank says so. One that was given up has no say. */
static int note_end(ks_worker *w, int from, const ks_message *m, ks_error *err)
{
    int outcome = (int)m->flags - 1;
    if (!count_out(w, from))
        return 0;
    note_rows(w, from, m);
    w->peers[from].failed = outcome < 0 || (outcome == KS_WORKER_LOST && from % w->replica == 0);
    if (!outcome || outcome == KS_WORKER_LOST)
        return 0;
    w->worst = worse(w->worst, outcome);
    return stop_all(w, err);
}

static void note_sums(ks_worker *w, int from, const ks_message *m)
{
    const uint64_t bits[SUMS_A_MESSAGE] = {m->a, m->b, m->c, m->d};
    double values[SUMS_A_MESSAGE];
    memcpy(values, bits, sizeof values);
    for (uint32_t i = 0; i < SUMS_A_MESSAGE && i + m->flags < KS_WORKER_SUMS; i++)
        w->peers[from].sums[i + m->flags] = values[i];
}

static void note_release(ks_worker *w, const ks_message *m)
{
    w->released = true;
    w->outcome = (int)m->a - 1;
    w->speaker = (int)m->c;
    w->failures = (int)m->d;
    if (m->b)
        ks_comm_give_up(w->comm);
}

/* Those that have died: rank 0 lends their points to others; without rank 0 there is no run. */
static int note_deaths(ks_worker *w, ks_error *err)
{
    for (int rank; ks_comm_next_dead(w->comm, &rank);) {
        w->deaths = true;
        if (w->coordinator && count_out(w, rank))
            ks_log_warn("rank %d has died; the others go on with what %s was lent", rank, w->replica > 1 ? "its replica" : "it");
        if (rank != 0)
            continue;
        ks_comm_break(w->comm);
        return ks_error_set(err, "rank 0, which leads the run, has died");
    }
    return 0;
}

static void take_lease(ks_worker *w, const ks_message *m)
{
    w->asked = false;
    w->waited = 0;
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
        ks_coordinator_finished(w->coordinator, from / w->replica, m->a, m->flags != 0, ks_seconds());
        note_rows(w, from, m);
        return 0;
    case MESSAGE_EXPECT:
        ks_coordinator_expect(w->coordinator, from / w->replica, 1e-6 * (double)m->a);
        return 0;
    case MESSAGE_WANT_STOP:
        return stop_all(w, err);
    case MESSAGE_ALIVE:
        return 0; /* that it was heard of is all */
    case MESSAGE_SUMS:
        note_sums(w, from, m);
        return 0;
    case MESSAGE_ENDED:
        return note_end(w, from, m, err);
    case MESSAGE_LEASE:
        take_lease(w, m);
        return 0;
    case MESSAGE_LATER:
        w->asked = false;
        w->waited = 0;
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
        note_release(w, m);
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
        w->peers[from].heard = ks_seconds();
        if (handle(w, from, &m, err))
            return -1;
    }
    return got < 0 ? -1 : note_deaths(w, err);
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

/* Rank 0: leases past their deadline are lent again. */
static void expire_leases(ks_worker *w)
{
    if (!ks_coordinator_expire(w->coordinator, ks_seconds()))
        return;
    for (int rank = 0; rank < ks_comm_size(w->comm); rank += w->replica) {
        uint64_t late = ks_coordinator_late(w->coordinator, rank / w->replica);
        if (late > w->peers[rank].late)
            ks_log_warn("rank %d is past the deadline of %llu lease%s, which others get; it was heard of %.0f s ago", rank,
                        (unsigned long long)(late - w->peers[rank].late), late - w->peers[rank].late == 1 ? "" : "s",
                        ks_seconds() - w->peers[rank].heard);
        w->peers[rank].late = late;
    }
}

/* Rank 0, when nothing is left to render or all were told to stop: ranks that have said nothing for long are not waited for. Nor
 * where the rest cannot be lent: rank 0 itself renders no more, and nobody else asks. */
static void give_up_silent(ks_worker *w)
{
    ks_progress progress;
    ks_coordinator_progress(w->coordinator, ks_seconds(), &progress);
    bool stopped = w->stop_time > 0 && !ks_coordinator_complete(w->coordinator);
    for (int rank = 0; rank < ks_comm_size(w->comm) && (stopped || !progress.lent); rank++) {
        double silent = ks_seconds() - w->peers[rank].heard, stopping = ks_seconds() - w->stop_time;
        bool hangs = stopped ? fmin(silent, stopping) > fmin(w->deadline, KS_STOP_SECONDS) : silent > w->deadline;
        if (!hangs || !count_out(w, rank))
            continue;
        ks_log_warn("rank %d has said nothing for %.0f s: the run ends without it", rank, silent);
        w->given_up = true;
        ks_comm_give_up(w->comm);
    }
}

/* Another rank that waits for rank 0's answer: not for ever. Only the time of its own naps counts, as it may have been stopped
 * itself. */
static int wait_for_root(ks_worker *w, ks_error *err)
{
    double begin = ks_seconds(), patience = fmax(w->deadline, PATIENCE * w->expected);
    if (w->replica > 1)
        patience += w->deadline + PARTING;
    nap();
    if (!w->asked || w->coordinator)
        return 0;
    w->waited += fmin(ks_seconds() - begin, 0.01);
    if (w->waited <= patience)
        return 0;
    ks_comm_break(w->comm);
    return ks_error_set(err, "rank 0, which leads the run, has not answered for %.0f s", w->waited);
}

int ks_worker_poll(ks_worker *w, bool idle, bool *finished, ks_error *err)
{
    bool any;
    if (tell_signal(w, err) || ask_ahead(w, err) || serve(w, &any, err))
        return -1;
    if (w->coordinator)
        expire_leases(w);
    if (w->stopped || w->released)
        return 1;
    *finished = w->finished && !w->leases;
    return idle && !any && !*finished ? wait_for_root(w, err) : 0;
}

/* Often enough not to be taken for one that hangs. */
static int tell_life(ks_worker *w, ks_error *err)
{
    double now = ks_seconds();
    if (now - w->said < fmin(w->deadline, KS_STOP_SECONDS) / SIGNS_OF_LIFE)
        return 0;
    w->said = now;
    return send_to(w, 0, MESSAGE_ALIVE, 0, 0, err);
}

int ks_worker_follow(ks_worker *w, ks_error *err)
{
    bool any;
    return tell_signal(w, err) || tell_life(w, err) || serve(w, &any, err) ? -1 : w->released;
}

int ks_worker_released(ks_worker *w, ks_error *err)
{
    bool any;
    return serve(w, &any, err) ? -1 : w->released;
}

void ks_worker_done(ks_worker *w, uint64_t point, bool failed)
{
    if (w->overs == w->over_room) {
        w->over_room = w->over_room ? 2 * w->over_room : 16;
        w->over = ks_realloc(w->over, (size_t)w->over_room, sizeof *w->over);
    }
    w->over[w->overs++] = (ended_point){point, failed};
}

bool ks_worker_should_tell(const ks_worker *w)
{
    return w->overs && queued(w) < (uint64_t)w->room;
}

int ks_worker_tell(ks_worker *w, double rows, double saved, ks_error *err)
{
    peer *self = &w->peers[ks_comm_rank(w->comm)];
    self->rows = rows;
    self->saved = saved;
    for (int i = 0; i < w->overs; i++) {
        const ended_point *over = &w->over[i];
        remove_point(&w->flying, over->point);
        ks_message m = {.kind = MESSAGE_POINT, .flags = over->failed, .a = over->point, .b = (uint64_t)rows, .c = (uint64_t)saved};
        if (ks_comm_send(w->comm, 0, &m, err))
            return -1;
    }
    w->overs = 0;
    return 0;
}

int ks_worker_expect(ks_worker *w, double point_seconds, ks_error *err)
{
    w->expected = point_seconds;
    return send_to(w, 0, MESSAGE_EXPECT, (uint64_t)(1e6 * point_seconds), 0, err);
}

static int tell_sums(ks_worker *w, const double sums[KS_WORKER_SUMS], ks_error *err)
{
    for (uint32_t i = 0; i < KS_WORKER_SUMS; i += SUMS_A_MESSAGE) {
        uint64_t bits[SUMS_A_MESSAGE] = {0};
        size_t count = KS_WORKER_SUMS - i < SUMS_A_MESSAGE ? KS_WORKER_SUMS - i : SUMS_A_MESSAGE;
        memcpy(bits, sums + i, count * sizeof *sums);
        ks_message m = {.kind = MESSAGE_SUMS, .flags = i, .a = bits[0], .b = bits[1], .c = bits[2], .d = bits[3]};
        if (ks_comm_send(w->comm, 0, &m, err))
            return -1;
    }
    return 0;
}

/* The last messages of a rank's rendering; the rows are what it told last. */
static int tell_end(ks_worker *w, int outcome, const double sums[KS_WORKER_SUMS], ks_error *err)
{
    const peer *self = &w->peers[ks_comm_rank(w->comm)];
    if (tell_sums(w, sums, err))
        return -1;
    ks_message m = {.kind = MESSAGE_ENDED, .flags = (uint32_t)(outcome + 1), .b = (uint64_t)self->rows,
                    .c = (uint64_t)self->saved};
    return ks_comm_send(w->comm, 0, &m, err);
}

/* Serves messages until *until holds, and calls *meanwhile (or NULL) again and again. */
static int serve_until(ks_worker *w, bool (*until)(const ks_worker *w), int (*meanwhile)(void *, ks_error *), void *self, ks_error *err)
{
    while (!until(w)) {
        bool any;
        if (tell_signal(w, err) || serve(w, &any, err) || (meanwhile && meanwhile(self, err)))
            return -1;
        if (w->coordinator) {
            expire_leases(w);
            give_up_silent(w);
        }
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

int ks_worker_end(ks_worker *w, int outcome, const double sums[KS_WORKER_SUMS], int (*meanwhile)(void *self, ks_error *err), void *self,
                  ks_error *err)
{
    if (tell_end(w, outcome, sums, err))
        return -1;
    if (!w->coordinator)
        return outcome;
    if (serve_until(w, all_ended, meanwhile, self, err))
        return -1;
    return w->worst || ks_coordinator_complete(w->coordinator) ? w->worst : KS_WORKER_LOST;
}

/* The lowest rank that failed says why. */
static void choose_speaker(ks_worker *w, bool root_failed)
{
    w->peers[0].failed = root_failed;
    for (int rank = ks_comm_size(w->comm) - 1; rank >= 0; rank--) {
        if (!w->peers[rank].failed)
            continue;
        w->speaker = rank;
        w->failures++;
    }
}

int ks_worker_release(ks_worker *w, int outcome, bool failed, ks_error *err)
{
    choose_speaker(w, failed);
    ks_message m = {.kind = MESSAGE_RELEASE, .a = (uint64_t)(outcome + 1), .b = w->given_up, .c = (uint64_t)w->speaker,
                    .d = (uint64_t)w->failures};
    for (int rank = 1; rank < ks_comm_size(w->comm); rank++) {
        if (ks_comm_send(w->comm, rank, &m, err))
            return -1;
    }
    return 0;
}

int ks_worker_failures(const ks_worker *w)
{
    return w->speaker == ks_comm_rank(w->comm) ? w->failures : 0;
}

int ks_worker_wait(ks_worker *w, int *outcome, ks_error *err)
{
    if (serve_until(w, is_released, NULL, NULL, err))
        return -1;
    *outcome = w->outcome;
    return 0;
}

bool ks_worker_missed(const ks_worker *w)
{
    return w->given_up || w->deaths;
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

void ks_worker_sum(const ks_worker *w, double sums[KS_WORKER_SUMS])
{
    memset(sums, 0, KS_WORKER_SUMS * sizeof *sums);
    for (int rank = 0; rank < ks_comm_size(w->comm); rank++) {
        for (int i = 0; i < KS_WORKER_SUMS; i++)
            sums[i] += w->peers[rank].sums[i];
    }
}
