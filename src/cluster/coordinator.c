#include "cluster/coordinator.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cluster/deadlines.h"
#include "cluster/ranges.h"

enum {
    LEASE_POINTS = 65536, /* no lease is larger: its bitmap stays below 8 KiB */
    PACE_POINTS = 64,     /* a worker's speed is measured over about this many points, */
    PACE_ROOMS = 4,       /* or over its room filled this many times */
    TRUST = 16,           /* no lease is larger than this many times what was measured */
    PATIENCE = 4,         /* a lease may take this many times what it should */
    WINDOW_SECONDS = 60,  /* the time constant of the progress, */
    WINDOW_POINTS = 8,    /* or this many times what a point takes */
};

/* Seconds a point, over the last finished points: both sums are halved when the window is full. */
typedef struct pace {
    double points, seconds;
} pace;

/* Points lent to one worker: a range of the coordinator's set `lent`, with a deadline. */
typedef struct lease {
    ks_range range; /* the first member: a range of `lent` is the lease itself */
    ks_deadline deadline;
    struct lease *next, *previous; /* of the same worker */
    int worker;
    double granted;
    uint64_t ahead; /* unfinished points that the worker held when it was lent, these included */
    uint64_t left;  /* unfinished points of this lease */
    uint64_t few;   /* which points are finished: this word for up to 64 points, */
    uint64_t *finished; /* else an array made when the first one is finished */
} lease;

typedef struct worker {
    lease *leases;
    uint64_t held; /* unfinished points of its leases */
    int room;
    bool gone;
    double last;     /* when it last finished a point, or was lent one while it had none */
    double expected; /* seconds a point by its own account; 0: not known */
    uint64_t late;   /* leases that ran past their deadline */
    pace pace;
} worker;

/* Every point is in one of these places: done before (the bitmap), fresh (at `cursor` or above,
 * never lent), lent (in a lease and not finished), back (taken back from a lease), or none of
 * these: finished in this run. */
struct ks_coordinator {
    uint64_t points, to_do;
    uint64_t *done; /* NULL: none was done before */
    uint64_t cursor;
    ks_ranges lent, back; /* of lease, of ks_range */
    ks_deadlines deadlines;
    uint64_t idle_points, lent_points; /* fresh + back; lent */
    uint64_t finished, failed, taken_back;
    int workers, present, busy;
    worker *worker;
    double speeds; /* points a second, summed over the workers whose speed is known, */
    int measured;  /* so many */
    double lease_seconds, deadline_seconds;
    bool has_started;
    double started;
    /* An exponential window over all workers. */
    double window_points, window_seconds, window_time, window_constant;
};

/* The first point in from..end-1 whose bit is `value`, or end. */
static uint64_t next_bit(const uint64_t *bits, uint64_t from, uint64_t end, bool value)
{
    while (from < end) {
        uint64_t word = (value ? bits[from / 64] : ~bits[from / 64]) >> (from % 64);
        if (word) {
            from += (uint64_t)__builtin_ctzll(word);
            return from < end ? from : end;
        }
        from = (from / 64 + 1) * 64;
    }
    return end;
}

static uint64_t count_bits(const uint64_t *bits, uint64_t count)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count / 64; i++)
        sum += (uint64_t)__builtin_popcountll(bits[i]);
    if (count % 64)
        sum += (uint64_t)__builtin_popcountll(bits[count / 64] << (64 - count % 64));
    return sum;
}

/* --- speed --- */

static void pace_add(pace *p, double seconds, double window)
{
    p->points += 1;
    p->seconds += seconds;
    if (p->points > window) {
        p->points /= 2;
        p->seconds /= 2;
    }
}

/* Points a second; 0: not known. */
static double pace_speed(const pace *p)
{
    return p->seconds > 0 ? p->points / p->seconds : 0;
}

/* The mean of the workers' speeds; 0: none is known. */
static double mean_speed(const ks_coordinator *c)
{
    return c->measured ? c->speeds / c->measured : 0;
}

/* A worker with several points in flight finishes one every point time / room seconds: that
 * interval is measured. */
static void measure(ks_coordinator *c, worker *w, double now)
{
    double before = pace_speed(&w->pace);
    pace_add(&w->pace, fmax(0, now - w->last), fmax(PACE_POINTS, PACE_ROOMS * (double)w->room));
    double speed = pace_speed(&w->pace);
    c->measured += speed > 0 && before <= 0;
    c->speeds += speed - before;
    if (speed > 0)
        c->window_constant = fmax(WINDOW_SECONDS, WINDOW_POINTS * w->room / mean_speed(c));
}

/* The window's sums as they are at `now`: what happened t seconds ago weighs exp(-t / constant). */
static void window_at(const ks_coordinator *c, double now, double *points, double *seconds)
{
    double passed = fmax(0, now - c->window_time), keep = exp(-passed / c->window_constant);
    *points = c->window_points * keep;
    *seconds = c->window_seconds * keep + c->window_constant * (1 - keep);
}

static void window_add(ks_coordinator *c, double now)
{
    window_at(c, now, &c->window_points, &c->window_seconds);
    c->window_points += 1;
    c->window_time = fmax(c->window_time, now);
}

/* --- leases --- */

/* How long the worker may keep a lease: what it needs for all that it held, several times over. */
static double allowance(const ks_coordinator *c, const worker *w, uint64_t ahead)
{
    double own = pace_speed(&w->pace), all = mean_speed(c);
    double interval = fmax(own > 0 ? 1 / own : 0, w->expected / w->room);
    if (interval <= 0 && all > 0)
        interval = 1 / all;
    return fmax(c->deadline_seconds, PATIENCE * interval * ((double)ahead + w->room));
}

/* Guided self-scheduling (Polychronopoulos and Kuck 1987) with a third of a worker's share (with a
 * half of it one run in ten of bench/coordinator_sim had a tail longer than a point), weighted by its speed, and capped by time and by how well that speed is known. A worker that holds its
 * room full gets only what its share allows to queue, which may be nothing (0): the last points are
 * for those that can start them at once. */
static uint64_t lease_size(const ks_coordinator *c, const worker *w)
{
    double own = pace_speed(&w->pace);
    double weight = own > 0 ? own / mean_speed(c) : 1;
    double share = (double)c->idle_points * weight / c->present;
    double most = fmax(w->room, fmin(c->lease_seconds * own, TRUST * w->pace.points));
    double size = fmin(fmin(share / 3, most), LEASE_POINTS);
    if (w->held < (uint64_t)w->room)
        return (uint64_t)fmax(1, size);
    return (uint64_t)fmax(0, fmin(size, w->room + share - (double)w->held));
}

/* Takes at most `most` consecutive points off what nobody has; there must be some. */
static uint64_t take(ks_coordinator *c, uint64_t most, uint64_t *first)
{
    ks_range *r = ks_ranges_lowest(&c->back);
    if (!r) {
        if (c->done)
            c->cursor = next_bit(c->done, c->cursor, c->points, false);
        *first = c->cursor;
        uint64_t end = c->points - c->cursor < most ? c->points : c->cursor + most;
        c->cursor = c->done ? next_bit(c->done, c->cursor, end, true) : end;
        return c->cursor - *first;
    }
    uint64_t count = r->count < most ? r->count : most;
    *first = r->first;
    if (count == r->count) {
        ks_ranges_remove(&c->back, r);
        free(r);
    } else {
        r->first += count;
        r->count -= count;
    }
    return count;
}

static void lend(ks_coordinator *c, int number, uint64_t first, uint64_t count, double now)
{
    worker *w = &c->worker[number];
    if (!w->held)
        w->last = now;
    if (!w->leases)
        c->busy++;
    w->held += count;
    c->idle_points -= count;
    c->lent_points += count;
    lease *l = ks_calloc(1, sizeof *l);
    *l = (lease){.range = {.first = first, .count = count},
                 .worker = number,
                 .granted = now,
                 .left = count,
                 .ahead = w->held,
                 .next = w->leases};
    l->deadline.at = now + allowance(c, w, l->ahead);
    if (l->next)
        l->next->previous = l;
    w->leases = l;
    ks_ranges_insert(&c->lent, &l->range);
    ks_deadlines_insert(&c->deadlines, &l->deadline);
}

/* Forgets a lease, whose points have all gone elsewhere. */
static void release(ks_coordinator *c, lease *l)
{
    worker *w = &c->worker[l->worker];
    ks_ranges_remove(&c->lent, &l->range);
    ks_deadlines_remove(&c->deadlines, &l->deadline);
    if (l->next)
        l->next->previous = l->previous;
    if (l->previous)
        l->previous->next = l->next;
    else
        w->leases = l->next;
    if (!w->leases)
        c->busy--;
    free(l->finished);
    free(l);
}

static const uint64_t *finished_bits(const lease *l)
{
    return l->finished ? l->finished : &l->few;
}

/* Marks a point of the lease as finished; false: it was already. */
static bool mark(lease *l, uint64_t point)
{
    uint64_t at = point - l->range.first, bit = (uint64_t)1 << (at % 64);
    if (l->range.count > 64 && !l->finished)
        l->finished = ks_calloc((l->range.count + 63) / 64, sizeof *l->finished);
    uint64_t *word = l->finished ? &l->finished[at / 64] : &l->few;
    bool is_new = !(*word & bit);
    *word |= bit;
    return is_new;
}

/* Adds a range to what was taken back, joined with those that it touches. */
static void give_back(ks_coordinator *c, uint64_t first, uint64_t count)
{
    ks_range *before = ks_ranges_ending_at(&c->back, first);
    ks_range *behind = ks_ranges_at(&c->back, first + count);
    if (behind) {
        count += behind->count;
        ks_ranges_remove(&c->back, behind);
        free(behind);
    }
    if (before) {
        before->count += count;
        return;
    }
    ks_range *r = ks_calloc(1, sizeof *r);
    *r = (ks_range){.first = first, .count = count};
    ks_ranges_insert(&c->back, r);
}

static void take_back(ks_coordinator *c, lease *l)
{
    uint64_t count = l->range.count;
    if (count > 64 && !l->finished) {
        give_back(c, l->range.first, count);
    } else {
        const uint64_t *bits = finished_bits(l);
        for (uint64_t from = next_bit(bits, 0, count, false); from < count;) {
            uint64_t end = next_bit(bits, from, count, true);
            give_back(c, l->range.first + from, end - from);
            from = next_bit(bits, end, count, false);
        }
    }
    c->worker[l->worker].held -= l->left;
    c->lent_points -= l->left;
    c->idle_points += l->left;
    c->taken_back++;
    release(c, l);
}

/* Removes one point from range r of what was taken back. */
static void cut_out(ks_coordinator *c, ks_range *r, uint64_t point)
{
    uint64_t behind = r->first + r->count - 1 - point;
    r->count = point - r->first;
    if (!r->count) {
        ks_ranges_remove(&c->back, r);
        free(r);
    }
    if (behind)
        give_back(c, point + 1, behind);
    c->idle_points--;
}

/* Strikes the point off where it waits to be finished; false: it does not wait. A failure strikes
 * only what the worker itself holds: the others may yet do better. */
static bool strike(ks_coordinator *c, int number, uint64_t point, bool failed)
{
    lease *l = (lease *)ks_ranges_at(&c->lent, point);
    if (l) {
        if ((failed && l->worker != number) || !mark(l, point))
            return false;
        l->left--;
        c->worker[l->worker].held--;
        c->lent_points--;
        if (!l->left)
            release(c, l);
        return true;
    }
    ks_range *r = failed ? NULL : ks_ranges_at(&c->back, point);
    if (r)
        cut_out(c, r, point);
    return r != NULL;
}

/* --- the interface --- */

static worker *worker_at(const ks_coordinator *c, int number)
{
    return number >= 0 && number < c->workers ? &c->worker[number] : NULL;
}

static int check_options(const ks_coordinator_options *o, ks_error *err)
{
    if (o->workers < 1)
        return ks_error_set(err, "coordinator: %d workers; at least 1 is needed", o->workers);
    if (!(o->lease_seconds >= 0) || !isfinite(o->lease_seconds))
        return ks_error_set(err, "coordinator: leases of %g seconds; 0 or more is needed",
                            o->lease_seconds);
    if (!(o->deadline_seconds >= 0) || !isfinite(o->deadline_seconds))
        return ks_error_set(err, "coordinator: a deadline of %g seconds; 0 or more is needed",
                            o->deadline_seconds);
    return 0;
}

static double or_default(double value, double usual)
{
    return value > 0 ? value : usual;
}

static int copy_done(ks_coordinator *c, const uint64_t *done, ks_error *err)
{
    uint64_t words = c->points / 64 + (c->points % 64 != 0);
    if (words <= SIZE_MAX / sizeof *done)
        c->done = malloc((size_t)words * sizeof *done);
    if (!c->done)
        return ks_error_set(err, "coordinator: no memory for a bitmap of %llu points",
                            (unsigned long long)c->points);
    memcpy(c->done, done, (size_t)words * sizeof *done);
    c->to_do -= count_bits(done, c->points);
    return 0;
}

ks_coordinator *ks_coordinator_new(const ks_coordinator_options *options, ks_error *err)
{
    if (check_options(options, err))
        return NULL;
    ks_coordinator *c = calloc(1, sizeof *c);
    worker *workers = calloc((size_t)options->workers, sizeof *workers);
    if (!c || !workers) {
        ks_error_set(err, "coordinator: no memory for %d workers", options->workers);
        free(c);
        free(workers);
        return NULL;
    }
    *c = (ks_coordinator){.points = options->points,
                          .to_do = options->points,
                          .worker = workers,
                          .workers = options->workers,
                          .present = options->workers,
                          .lease_seconds = or_default(options->lease_seconds, 30),
                          .deadline_seconds = or_default(options->deadline_seconds, 600),
                          .window_constant = WINDOW_SECONDS};
    for (int i = 0; i < c->workers; i++)
        workers[i].room = 1;
    if (options->done && c->points && copy_done(c, options->done, err)) {
        ks_coordinator_free(c);
        return NULL;
    }
    c->idle_points = c->to_do;
    return c;
}

void ks_coordinator_free(ks_coordinator *c)
{
    if (!c)
        return;
    for (int i = 0; i < c->workers; i++) {
        while (c->worker[i].leases)
            release(c, c->worker[i].leases);
    }
    for (ks_range *r; (r = ks_ranges_lowest(&c->back));) {
        ks_ranges_remove(&c->back, r);
        free(r);
    }
    ks_deadlines_free(&c->deadlines);
    free(c->worker);
    free(c->done);
    free(c);
}

static void note_ask(ks_coordinator *c, worker *w, int room, double now)
{
    w->room = room > 0 ? room : 1;
    c->present += w->gone;
    w->gone = false;
    if (c->has_started)
        return;
    c->has_started = true;
    c->started = c->window_time = now;
}

ks_lease_answer ks_coordinator_ask(ks_coordinator *c, int worker_number, int room, double now,
                                   uint64_t *first, uint64_t *count)
{
    worker *w = worker_at(c, worker_number);
    if (ks_coordinator_complete(c))
        return KS_LEASE_FINISHED;
    if (!w)
        return KS_LEASE_LATER;
    note_ask(c, w, room, now);
    if (!c->idle_points)
        ks_coordinator_expire(c, now);
    uint64_t size = c->idle_points ? lease_size(c, w) : 0;
    if (!size)
        return KS_LEASE_LATER;
    *count = take(c, size, first);
    lend(c, worker_number, *first, *count, now);
    return KS_LEASE_GRANTED;
}

void ks_coordinator_finished(ks_coordinator *c, int worker_number, uint64_t point, bool failed,
                             double now)
{
    worker *w = worker_at(c, worker_number);
    if (!w)
        return;
    if (!failed)
        measure(c, w, now);
    w->last = now;
    if (!strike(c, worker_number, point, failed))
        return;
    c->finished += !failed;
    c->failed += failed;
    window_add(c, now);
}

void ks_coordinator_expect(ks_coordinator *c, int worker_number, double point_seconds)
{
    worker *w = worker_at(c, worker_number);
    if (w && point_seconds >= 0 && isfinite(point_seconds))
        w->expected = point_seconds;
}

void ks_coordinator_lost(ks_coordinator *c, int worker_number, double now)
{
    (void)now;
    worker *w = worker_at(c, worker_number);
    if (!w)
        return;
    while (w->leases)
        take_back(c, w->leases);
    if (!w->gone && c->present > 1) {
        w->gone = true;
        c->present--;
    }
}

int ks_coordinator_expire(ks_coordinator *c, double now)
{
    int count = 0;
    for (ks_deadline *first; (first = ks_deadlines_first(&c->deadlines)) && first->at <= now;) {
        lease *l = (lease *)((char *)first - offsetof(lease, deadline));
        /* By what is known of the worker's speed today. */
        double at = l->granted + allowance(c, &c->worker[l->worker], l->ahead);
        if (at > now) {
            ks_deadlines_move(&c->deadlines, first, at);
            continue;
        }
        c->worker[l->worker].late++;
        take_back(c, l);
        count++;
    }
    return count;
}

uint64_t ks_coordinator_late(const ks_coordinator *c, int worker_number)
{
    const worker *w = worker_at(c, worker_number);
    return w ? w->late : 0;
}

void ks_coordinator_progress(const ks_coordinator *c, double now, ks_progress *out)
{
    uint64_t over = c->finished + c->failed;
    *out = (ks_progress){.points = c->points,
                         .done_before = c->points - c->to_do,
                         .done = c->finished,
                         .failed = c->failed,
                         .lent = c->lent_points,
                         .started = c->started,
                         .points_per_second = -1,
                         .seconds_left = ks_coordinator_complete(c) ? 0 : -1,
                         .workers_busy = c->busy,
                         .taken_back = c->taken_back};
    double points, seconds;
    window_at(c, now, &points, &seconds);
    if (!over || seconds <= 0)
        return;
    out->points_per_second = points / seconds;
    if (out->points_per_second > 0)
        out->seconds_left = (double)(c->to_do - over) / out->points_per_second;
}

bool ks_coordinator_complete(const ks_coordinator *c)
{
    return c->finished + c->failed == c->to_do;
}
