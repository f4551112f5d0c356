/* How long do workers wait for leases? The real coordinator under thousands of simulated workers,
 * in simulated time.
 *
 *     coordinator_sim [--workers 10000] [--points 2000000] [--lanes 8] [--call 0.1] [--done 0] [--seed 1]
 *
 * A worker behaves as src/cluster/worker.c does: it runs its lanes through network calls, looks at
 * its messages between them, asks ahead when what is queued would not fill it once more, and asks
 * again 50 ms after "later". Worker 0 holds the coordinator too and answers only between its own
 * calls. What is drawn:
 *   - a worker's call: --call seconds times a log-normal factor (sigma 0.1), fixed for the worker,
 *     and +-2 % from call to call
 *   - calls a point: 10 to 50, uniform (the steps of a mixed sweep)
 *   - a message: 5 us and an exponential of mean 50 us; one in 1000 takes 20 ms more
 * An answer costs the time that the coordinator's code really takes here, and 1 us for MPI.
 * --done: the share of the points that an earlier run has left done, here and there.
 *
 * The exit status is 1 when a point is not done; when workers wait for 1 % of their time or more; when the
 * tail, from the last lease to the end, is longer than the longest point took and 5 % more; or when the
 * coordinator's memory grows with the points: beyond what the leases take that can be out at once. */
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "base/file.h"
#include "cluster/coordinator.h"

enum { LEASES = 4, FEWEST_CALLS = 10, MOST_CALLS = 50 };

static const double message_seconds = 5e-6, message_mean = 50e-6, message_rare = 20e-3;
static const double mpi_seconds = 1e-6, nap_seconds = 1e-3, ask_again_seconds = 0.05;
static const double call_spread = 0.1, call_jitter = 0.02, most_waiting = 0.01, most_tail = 1.05;
static const size_t lease_bytes = 192; /* of one point that is lent alone, with malloc's own */

typedef struct lease {
    uint64_t next, end;
} lease;

typedef struct lane {
    uint64_t point;
    double started;
    int calls; /* still needed; 0: the lane is empty */
} lane;

typedef struct worker {
    double call; /* seconds */
    lane *lanes;
    lease queue[LEASES];
    int leases;
    bool asked, asleep, finished;
    ks_lease_answer answer; /* on its way until answer_at; < 0: not sent yet */
    lease granted;
    double answer_at, ask_again;
    int busy; /* lanes with work since `since` */
    double since;
} worker;

typedef enum event_kind { MOMENT, ASK, POINT } event_kind;

/* A worker's next look at its lanes and messages, or the arrival of a message at worker 0. */
typedef struct event {
    double at;
    uint64_t point;
    int worker;
    event_kind kind;
} event;

typedef struct list {
    event *event;
    size_t count, room;
} list;

typedef struct sim {
    int workers, lanes;
    uint64_t points, random;
    double call, done_share;
    uint64_t done_before;
    ks_coordinator *coordinator;
    worker *worker;
    list events; /* a heap by time */
    list inbox;  /* arrived at worker 0 and not looked at yet, in order */
    double coordinator_seconds, waited, idle_at_end, lane_seconds;
    double dry_at,
        ended; /* when the last point was lent (< 0: not yet), and the last one finished */
    double longest; /* that a point took, in a lane */
    uint64_t asks, later;
    size_t most_inbox, bytes_before, most_bytes;
} sim;

/* --- drawing --- */

static double uniform(sim *s) /* in (0, 1) */
{
    uint64_t z = s->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 12) * 0x1p-52 + 0x1p-53;
}

static double normal(sim *s)
{
    return sqrt(-2 * log(uniform(s))) * cos(6.283185307179586 * uniform(s));
}

static double message_delay(sim *s)
{
    double delay = message_seconds - message_mean * log(uniform(s));
    return uniform(s) < 0.001 ? delay + message_rare : delay;
}

static int draw_calls(sim *s)
{
    return FEWEST_CALLS + (int)(uniform(s) * (MOST_CALLS - FEWEST_CALLS + 1));
}

/* --- events --- */

static void append(list *l, event e)
{
    if (l->count == l->room) {
        l->room = l->room ? 2 * l->room : 4096;
        l->event = ks_realloc(l->event, l->room, sizeof *l->event);
    }
    l->event[l->count++] = e;
}

static void push(list *heap, event e)
{
    append(heap, e);
    size_t i = heap->count - 1;
    for (; i && heap->event[(i - 1) / 2].at > e.at; i = (i - 1) / 2)
        heap->event[i] = heap->event[(i - 1) / 2];
    heap->event[i] = e;
}

static event pop(list *heap)
{
    event first = heap->event[0], last = heap->event[--heap->count];
    size_t i = 0, n = heap->count;
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && heap->event[child + 1].at < heap->event[child].at;
        if (heap->event[child].at >= last.at)
            break;
        heap->event[i] = heap->event[child];
    }
    heap->event[i] = last;
    return first;
}

/* To worker 0; its messages to itself arrive at once. */
static void send(sim *s, event_kind kind, int from, uint64_t point, double now)
{
    double delay = from ? message_delay(s) : 0;
    push(&s->events, (event){.at = now + delay, .point = point, .worker = from, .kind = kind});
}

/* --- the coordinator's side --- */

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The heap without the simulation's own lists, which alone grow beside the coordinator. */
static size_t bytes_in_use(const sim *s)
{
#ifdef __GLIBC__
    struct mallinfo2 info = mallinfo2();
    return info.uordblks + info.hblkhd - (s->events.room + s->inbox.room) * sizeof(event);
#else
    return 0 * s->inbox.room;
#endif
}

static void ask_coordinator(sim *s, const event *m, double now)
{
    worker *w = &s->worker[m->worker];
    uint64_t first = 0, count = 0;
    w->answer = ks_coordinator_ask(s->coordinator, m->worker, s->lanes, now, &first, &count);
    w->granted = (lease){first, first + count};
    s->asks++;
    s->later += w->answer == KS_LEASE_LATER;
}

/* The answer goes out; one that sleeps looks for it once a nap. */
static void send_answer(sim *s, int number, double now)
{
    worker *w = &s->worker[number];
    w->answer_at = number ? now + message_delay(s) : now;
    if (w->asleep)
        push(&s->events, (event){.at = w->answer_at + nap_seconds * uniform(s), .worker = number});
    w->asleep = false;
}

static void note_state(sim *s, double now)
{
    ks_progress p;
    ks_coordinator_progress(s->coordinator, now, &p);
    if (s->dry_at < 0 && p.done_before + p.done + p.lent == p.points)
        s->dry_at = now;
    size_t bytes = bytes_in_use(s) - s->bytes_before;
    s->most_bytes = bytes > s->most_bytes ? bytes : s->most_bytes;
    s->most_inbox = s->inbox.count > s->most_inbox ? s->inbox.count : s->most_inbox;
}

/* Worker 0 takes every message that has arrived; returns when it is through. */
static double serve(sim *s, double now)
{
    for (size_t i = 0; i < s->inbox.count; i++) {
        event m = s->inbox.event[i];
        double begin = processor_seconds();
        if (m.kind == ASK)
            ask_coordinator(s, &m, now);
        else
            ks_coordinator_finished(s->coordinator, m.worker, m.point, false, now);
        double took = processor_seconds() - begin;
        s->coordinator_seconds += took;
        now += took + mpi_seconds;
        if (m.kind == ASK)
            send_answer(s, m.worker, now);
    }
    if (s->inbox.count)
        note_state(s, now);
    s->inbox.count = 0;
    return now;
}

/* --- a worker's side --- */

/* Lanes that were empty since the last moment: waited, as long as points were to be had; else the
 * run's end. */
static void account(sim *s, worker *w, double now)
{
    double empty = s->lanes - w->busy,
           dry = s->dry_at < 0 ? now : fmin(fmax(s->dry_at, w->since), now);
    s->lane_seconds += s->lanes * (now - w->since);
    s->waited += empty * (dry - w->since);
    s->idle_at_end += empty * (now - dry);
    w->since = now;
}

static void take_answer(worker *w, double now)
{
    if (!w->asked || w->answer_at < 0 || w->answer_at > now)
        return;
    w->asked = false;
    if (w->answer == KS_LEASE_GRANTED)
        w->queue[w->leases++] = w->granted;
    w->finished = w->answer == KS_LEASE_FINISHED;
    w->ask_again = w->answer == KS_LEASE_LATER ? now + ask_again_seconds : now;
}

static void ask_ahead(sim *s, int number, double now)
{
    worker *w = &s->worker[number];
    uint64_t queued = 0;
    for (int i = 0; i < w->leases; i++)
        queued += w->queue[i].end - w->queue[i].next;
    bool wants = !w->asked && !w->finished && w->leases < LEASES &&
                 queued < (uint64_t)s->lanes && now >= w->ask_again;
    if (!wants)
        return;
    w->asked = true;
    w->answer_at = -1;
    send(s, ASK, number, 0, now);
}

/* The lanes' calls have come back: tells of the points that have ended. */
static void end_call(sim *s, int number, double now)
{
    worker *w = &s->worker[number];
    for (int i = 0; i < s->lanes; i++) {
        if (w->lanes[i].calls && !--w->lanes[i].calls) {
            send(s, POINT, number, w->lanes[i].point, now);
            s->longest = fmax(s->longest, now - w->lanes[i].started);
            s->ended = now;
        }
    }
}

/* Next points of the queue into empty lanes. */
static void fill_lanes(sim *s, worker *w, double now)
{
    w->busy = 0;
    for (int i = 0; i < s->lanes; i++) {
        if (!w->lanes[i].calls && w->leases) {
            lease *l = &w->queue[0];
            w->lanes[i] = (lane){l->next++, now, draw_calls(s)};
            if (l->next == l->end)
                memmove(l, l + 1, sizeof *l * (size_t)--w->leases);
        }
        w->busy += w->lanes[i].calls > 0;
    }
}

/* When an idle worker looks again; < 0: it sleeps until its answer is sent, or has ended. */
static double idle_until(sim *s, int number, double now)
{
    worker *w = &s->worker[number];
    if (number == 0)
        return ks_coordinator_complete(s->coordinator) && w->finished ? -1 : now + nap_seconds;
    if (w->finished)
        return -1;
    if (!w->asked)
        return fmax(now, w->ask_again) + nap_seconds * uniform(s);
    w->asleep = w->answer_at < 0;
    return w->asleep ? -1 : w->answer_at + nap_seconds * uniform(s);
}

/* What a worker does between two network calls. */
static void moment(sim *s, int number, double now)
{
    worker *w = &s->worker[number];
    account(s, w, now);
    end_call(s, number, now);
    take_answer(w, now);
    fill_lanes(s, w, now);
    ask_ahead(s, number, now);
    double through = now;
    if (number == 0) {
        through = serve(s, now);
        take_answer(w, through);
        fill_lanes(s, w, through);
    }
    double jitter = 1 + call_jitter * (2 * uniform(s) - 1);
    double until = w->busy ? through + w->call * jitter : idle_until(s, number, through);
    if (until >= 0)
        push(&s->events, (event){.at = until, .worker = number});
}

/* --- the run --- */

/* The points that need no rendering: --done of them, drawn one by one. */
static uint64_t *draw_done(sim *s)
{
    uint64_t *done = ks_calloc((size_t)(s->points / 64 + 1), sizeof *done);
    for (uint64_t i = 0; i < s->points && s->done_share > 0; i++) {
        if (uniform(s) < s->done_share) {
            done[i / 64] |= (uint64_t)1 << (i % 64);
            s->done_before++;
        }
    }
    return done;
}

static int start(sim *s)
{
    s->dry_at = -1;
    s->worker = ks_calloc((size_t)s->workers, sizeof *s->worker);
    for (int i = 0; i < s->workers; i++) {
        worker *w = &s->worker[i];
        w->call = s->call * exp(call_spread * normal(s));
        w->lanes = ks_calloc((size_t)s->lanes, sizeof *w->lanes);
        push(&s->events, (event){.at = 0, .worker = i});
    }
    uint64_t *done = s->done_share > 0 ? draw_done(s) : NULL;
    ks_error err = KS_ERROR_NONE;
    ks_coordinator_options options = {.points = s->points, .done = done, .workers = s->workers};
    s->bytes_before = bytes_in_use(s);
    s->coordinator = ks_coordinator_new(&options, &err);
    size_t with_done = bytes_in_use(s);
    free(done);
    s->bytes_before -= with_done - bytes_in_use(s);
    if (!s->coordinator)
        fprintf(stderr, "coordinator_sim: %s\n", err.text);
    return s->coordinator ? 0 : -1;
}

static void run(sim *s)
{
    while (s->events.count) {
        event e = pop(&s->events);
        if (e.kind == MOMENT)
            moment(s, e.worker, e.at);
        else
            append(&s->inbox, e);
    }
    for (int i = 0; i < s->workers; i++) { /* those that ended early wait for the last one */
        if (s->worker[i].since < s->ended)
            account(s, &s->worker[i], s->ended);
    }
}

/* Says what was found, and whether it is a failure. */
static bool holds(bool good, const char *what)
{
    if (!good)
        printf("MISSED: %s\n", what);
    return good;
}

/* What the coordinator may take: a lease of its own for each lane of every worker, and the bitmap of what
 * was done before. */
static size_t bytes_allowed(const sim *s)
{
    size_t leases = (size_t)s->workers * (size_t)s->lanes, bitmap = s->done_before ? (size_t)s->points / 8 : 0;
    return leases * lease_bytes + bitmap + ((size_t)1 << 16);
}

static bool judge(const sim *s, double waiting)
{
    ks_progress p;
    ks_coordinator_progress(s->coordinator, s->ended, &p);
    bool all = ks_coordinator_complete(s->coordinator) && p.done_before + p.done == s->points;
    bool good = holds(all, "every point is done");
    good &= holds(waiting < most_waiting, "workers wait for less than 1 % of their time");
    good &= holds(s->ended - s->dry_at < most_tail * s->longest, "the tail is as long as one point and 5 % at most");
    good &= holds(s->most_bytes <= bytes_allowed(s), "memory does not grow with the points");
    return good;
}

static bool report(const sim *s)
{
    uint64_t points = s->points - s->done_before;
    double messages = (double)(points + s->asks), waiting = s->waited / s->lane_seconds;
    printf("%d workers of %d lanes, %llu points, %llu of them done before, calls of %g s\n", s->workers, s->lanes,
           (unsigned long long)s->points, (unsigned long long)s->done_before, s->call);
    printf("run                     %.1f s simulated, %.1f points a second\n", s->ended, (double)points / s->ended);
    printf("waiting for leases      %.3f %% of the lanes' time (target: < %g %%)\n", 100 * waiting, 100 * most_waiting);
    printf("tail                    %.2f s after the last point was lent (target: < %.2f, the longest point + 5 %%); idle %.2f %% "
           "of all time\n", s->ended - s->dry_at, most_tail * s->longest, 100 * s->idle_at_end / s->lane_seconds);
    printf("asks                    %llu, of them %llu answered \"later\"\n", (unsigned long long)s->asks,
           (unsigned long long)s->later);
    printf("longest queue           %zu messages at worker 0\n", s->most_inbox);
    printf("coordinator's processor %.2f us a message, %.3f %% of worker 0's time\n",
           1e6 * s->coordinator_seconds / messages, 100 * s->coordinator_seconds / s->ended);
    printf("coordinator's memory    %.2f MiB at most (target: <= %.2f)\n", (double)s->most_bytes / 0x1p20,
           (double)bytes_allowed(s) / 0x1p20);
    return judge(s, waiting);
}

static void finish(sim *s)
{
    for (int i = 0; i < s->workers; i++)
        free(s->worker[i].lanes);
    free(s->worker);
    free(s->events.event);
    free(s->inbox.event);
    ks_coordinator_free(s->coordinator);
}

static int parse(sim *s, int argc, char **argv)
{
    static const struct option options[] = {
        {"workers", required_argument, NULL, 'w'}, {"points", required_argument, NULL, 'p'},
        {"lanes", required_argument, NULL, 'l'},   {"call", required_argument, NULL, 'c'},
        {"done", required_argument, NULL, 'd'},
        {"seed", required_argument, NULL, 's'},    {0},
    };
    for (int key; (key = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (key) {
        case 'w':
            s->workers = atoi(optarg);
            break;
        case 'p':
            s->points = strtoull(optarg, NULL, 10);
            break;
        case 'l':
            s->lanes = atoi(optarg);
            break;
        case 'c':
            s->call = atof(optarg);
            break;
        case 'd':
            s->done_share = atof(optarg);
            break;
        case 's':
            s->random = strtoull(optarg, NULL, 10);
            break;
        default:
            return -1;
        }
    }
    bool sizes = s->workers > 0 && s->lanes > 0 && s->points > 0 && s->call > 0;
    return optind == argc && sizes && s->done_share >= 0 && s->done_share < 1 ? 0 : -1;
}

int main(int argc, char **argv)
{
    sim s = {.workers = 10000, .lanes = 8, .points = 2000000, .call = 0.1, .random = 1};
    if (parse(&s, argc, argv)) {
        fprintf(stderr, "use: coordinator_sim [--workers N] [--points N] [--lanes N] "
                        "[--call SECONDS] [--done SHARE] [--seed N]\n");
        return 2;
    }
    bool good = false;
    if (!start(&s)) {
        run(&s);
        good = report(&s);
    }
    finish(&s);
    return good ? 0 : 1;
}
