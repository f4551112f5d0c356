/* The coordinator by itself: small cases by hand, then simulated runs with losses, late workers and
 * deadlines. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cluster/coordinator.h"

static ks_coordinator *make(uint64_t points, const uint64_t *done, int workers)
{
    ks_coordinator_options options = {.points = points, .done = done, .workers = workers};
    ks_error err = KS_ERROR_NONE;
    ks_coordinator *c = ks_coordinator_new(&options, &err);
    assert_string_equal(err.text, "");
    assert_non_null(c);
    return c;
}

static ks_progress progress(const ks_coordinator *c, double now)
{
    ks_progress p;
    ks_coordinator_progress(c, now, &p);
    return p;
}

/* The random stream of a simulation: xorshift64*. */
typedef struct dice {
    uint64_t state;
} dice;

static uint64_t roll(dice *d, uint64_t below)
{
    d->state ^= d->state >> 12;
    d->state ^= d->state << 25;
    d->state ^= d->state >> 27;
    return (d->state * 0x2545f4914f6cdd1du >> 33) % below;
}

static void nothing_to_do_is_finished_at_once(void **state)
{
    (void)state;
    uint64_t first, count, all = ~(uint64_t)0;
    ks_coordinator *none = make(0, NULL, 2), *done = make(64, &all, 2);
    assert_int_equal(ks_coordinator_ask(none, 0, 4, 1, &first, &count), KS_LEASE_FINISHED);
    assert_int_equal(ks_coordinator_ask(done, 0, 4, 1, &first, &count), KS_LEASE_FINISHED);
    assert_true(ks_coordinator_complete(none) && ks_coordinator_complete(done));
    assert_int_equal(progress(done, 1).done_before, 64);
    assert_true(progress(done, 1).seconds_left == 0);
    ks_coordinator_free(none);
    ks_coordinator_free(done);
}

static void wrong_options_are_refused(void **state)
{
    (void)state;
    const ks_coordinator_options wrong[] = {
        {.points = 1, .workers = 0},
        {.points = 1, .workers = 1, .lease_seconds = -1},
        {.points = 1, .workers = 1, .lease_seconds = (double)NAN},
        {.points = 1, .workers = 1, .deadline_seconds = (double)INFINITY},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ks_error err = KS_ERROR_NONE;
        assert_null(ks_coordinator_new(&wrong[i], &err));
        assert_true(err.text[0]);
    }
}

static void the_last_points_are_lent_later_only_when_all_are_out(void **state)
{
    (void)state;
    ks_coordinator *c = make(3, NULL, 2);
    uint64_t first, count;
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(ks_coordinator_ask(c, (int)(i % 2), 2, 0, &first, &count),
                         KS_LEASE_GRANTED);
        assert_int_equal(first, i);
        assert_int_equal(count, 1);
    }
    assert_int_equal(ks_coordinator_ask(c, 0, 2, 1, &first, &count), KS_LEASE_LATER);
    assert_int_equal(progress(c, 1).lent, 3);
    assert_int_equal(progress(c, 1).workers_busy, 2);
    ks_coordinator_finished(c, 0, 0, false, 2);
    ks_coordinator_finished(c, 1, 1, true, 2);
    assert_false(ks_coordinator_complete(c));
    ks_coordinator_finished(c, 0, 2, false, 3);
    assert_true(ks_coordinator_complete(c));
    assert_int_equal(ks_coordinator_ask(c, 1, 1, 3, &first, &count), KS_LEASE_FINISHED);
    ks_progress p = progress(c, 3);
    assert_int_equal(p.done, 2);
    assert_int_equal(p.failed, 1);
    assert_int_equal(p.lent, 0);
    assert_int_equal(p.workers_busy, 0);
    ks_coordinator_free(c);
}

static void a_lease_fills_the_room_when_work_is_plentiful(void **state)
{
    (void)state;
    ks_coordinator *c = make(100000, NULL, 10);
    uint64_t first, count;
    for (int w = 0; w < 10; w++) {
        assert_int_equal(ks_coordinator_ask(c, w, 7 + w, 0, &first, &count), KS_LEASE_GRANTED);
        assert_int_equal(count, 7 + w);
    }
    ks_coordinator_free(c);
}

/* With its speed known, a worker gets what lasts about lease_seconds. */
static void a_lease_lasts_as_long_as_asked_for(void **state)
{
    (void)state;
    ks_coordinator *c = make(1000000, NULL, 4);
    uint64_t first, count;
    double now = 0;
    assert_int_equal(ks_coordinator_ask(c, 1, 200, now, &first, &count), KS_LEASE_GRANTED);
    for (uint64_t i = 0; i < count; i++)
        ks_coordinator_finished(c, 1, first + i, false, now += 0.1);
    assert_int_equal(ks_coordinator_ask(c, 1, 8, now, &first, &count), KS_LEASE_GRANTED);
    assert_in_range(count, 295, 305); /* 30 s of 10 points a second */
    ks_coordinator_free(c);
}

static void leases_shrink_to_one_point(void **state)
{
    (void)state;
    ks_coordinator *c = make(1000, NULL, 5);
    uint64_t first, count, before = UINT64_MAX, grants = 0;
    for (int w = 0; ks_coordinator_ask(c, w, 64, 0, &first, &count) == KS_LEASE_GRANTED;
         w = (w + 1) % 5) {
        assert_true(count <= before);
        before = count;
        grants++;
        for (uint64_t i = 0; i < count; i++)
            ks_coordinator_finished(c, w, first + i, false, 0);
    }
    assert_true(ks_coordinator_complete(c));
    assert_int_equal(before, 1);
    assert_in_range(grants, 20, 90);
    ks_coordinator_free(c);
}

/* A worker with its room full may queue no more than its share of what is left. */
static void the_last_points_are_for_workers_that_can_start_them(void **state)
{
    (void)state;
    ks_coordinator *c = make(20, NULL, 2);
    uint64_t first, count, held = 0;
    while (ks_coordinator_ask(c, 0, 4, 0, &first, &count) == KS_LEASE_GRANTED)
        held += count;
    assert_in_range(held, 4, 12);
    assert_int_equal(ks_coordinator_ask(c, 1, 4, 0, &first, &count), KS_LEASE_GRANTED);
    ks_coordinator_free(c);
    c = make(6, NULL, 2); /* nothing to queue: the room and no more */
    for (held = 0; ks_coordinator_ask(c, 0, 4, 0, &first, &count) == KS_LEASE_GRANTED; held++)
        assert_int_equal(count, 1);
    assert_int_equal(held, 4);
    ks_coordinator_finished(c, 0, 0, false, 1);
    assert_int_equal(ks_coordinator_ask(c, 0, 4, 1, &first, &count), KS_LEASE_GRANTED);
    assert_int_equal(ks_coordinator_ask(c, 0, 4, 1, &first, &count), KS_LEASE_LATER);
    assert_int_equal(ks_coordinator_ask(c, 1, 4, 1, &first, &count), KS_LEASE_GRANTED);
    assert_int_equal(first, 5);
    ks_coordinator_free(c);
}

/* Of two workers with the same room, the faster one gets the larger share of the end. */
static void a_slow_worker_gets_a_smaller_share(void **state)
{
    (void)state;
    ks_coordinator *c = make(2000, NULL, 2);
    uint64_t first[2], count[2], again, slow, fast;
    for (int w = 0; w < 2; w++)
        ks_coordinator_ask(c, w, 100, 0, &first[w], &count[w]);
    for (uint64_t i = 0; i < count[0]; i++)
        ks_coordinator_finished(c, 0, first[0] + i, false, (double)i);
    for (uint64_t i = 0; i < count[1]; i++)
        ks_coordinator_finished(c, 1, first[1] + i, false, 0.1 * (double)i);
    ks_coordinator_ask(c, 0, 1000, 100, &again, &slow);
    ks_coordinator_ask(c, 1, 1000, 100, &again, &fast);
    assert_true(fast > 4 * slow);
    ks_coordinator_free(c);
}

static void a_lost_worker_s_unfinished_points_are_lent_again(void **state)
{
    (void)state;
    ks_coordinator *c = make(12, NULL, 1);
    uint64_t first, count, seen = 0;
    assert_int_equal(ks_coordinator_ask(c, 0, 12, 0, &first, &count), KS_LEASE_GRANTED);
    assert_int_equal(count, 4);
    ks_coordinator_finished(c, 0, 1, false, 1);
    ks_coordinator_finished(c, 0, 2, false, 1);
    ks_coordinator_lost(c, 0, 2);
    assert_int_equal(progress(c, 2).lent, 0);
    assert_int_equal(progress(c, 2).taken_back, 1);
    while (ks_coordinator_ask(c, 0, 12, 3, &first, &count) == KS_LEASE_GRANTED) {
        for (uint64_t i = first; i < first + count; i++) {
            assert_true(i < 12 && !(seen >> i & 1));
            seen |= (uint64_t)1 << i;
        }
    }
    assert_int_equal(seen, 0xfff & ~6);
    ks_coordinator_free(c);
}

/* In whatever order neighbours come back, they are one range again. */
static void neighbouring_points_taken_back_are_joined(void **state)
{
    (void)state;
    const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {0, 2, 1}, {1, 0, 2}};
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        ks_coordinator *c = make(300, NULL, 3);
        uint64_t first, count, lent = 0;
        for (int w = 0; w < 3; w++, lent += count)
            assert_int_equal(ks_coordinator_ask(c, w, 100, 0, &first, &count), KS_LEASE_GRANTED);
        for (int w = 0; w < 3; w++)
            ks_coordinator_lost(c, orders[i][w], 1);
        assert_int_equal(ks_coordinator_ask(c, orders[i][2], 1000, 2, &first, &count),
                         KS_LEASE_GRANTED);
        assert_int_equal(first, 0);
        assert_int_equal(count, lent);
        ks_coordinator_free(c);
    }
}

static void a_lease_past_its_deadline_goes_to_another(void **state)
{
    (void)state;
    ks_coordinator *c = make(2, NULL, 2);
    uint64_t first, count;
    ks_coordinator_ask(c, 0, 1, 0, &first, &count);
    ks_coordinator_ask(c, 1, 1, 0, &first, &count);
    ks_coordinator_finished(c, 1, first, false, 5);
    assert_int_equal(ks_coordinator_expire(c, 599), 0);
    assert_int_equal(ks_coordinator_ask(c, 1, 1, 599, &first, &count), KS_LEASE_LATER);
    assert_int_equal(ks_coordinator_expire(c, 600), 1);
    assert_int_equal(ks_coordinator_late(c, 0), 1);
    assert_int_equal(ks_coordinator_late(c, 1) + ks_coordinator_late(c, -1), 0);
    assert_int_equal(ks_coordinator_ask(c, 1, 1, 600, &first, &count), KS_LEASE_GRANTED);
    assert_int_equal(first, 0);
    ks_coordinator_free(c);
}

/* Points of 400 s each: 600 s is no reason to take a lease of several away. */
static void the_deadline_is_stretched_for_slow_samples(void **state)
{
    (void)state;
    ks_coordinator *measured = make(100, NULL, 2), *told = make(100, NULL, 2);
    uint64_t first, count;
    ks_coordinator_ask(measured, 0, 4, 0, &first, &count);
    ks_coordinator_finished(measured, 0, first, false, 400);
    assert_int_equal(ks_coordinator_expire(measured, 1500), 0);
    assert_int_equal(ks_coordinator_expire(measured, 400.0 * 4 * 8 + 1), 1);
    ks_coordinator_ask(told, 0, 4, 0, &first, &count);
    ks_coordinator_expect(told, 0, 1600);
    assert_int_equal(ks_coordinator_expire(told, 1500), 0);
    assert_int_equal(ks_coordinator_expire(told, 400.0 * 4 * 8 + 1), 1);
    ks_coordinator_free(measured);
    ks_coordinator_free(told);
}

static void late_and_double_results_count_once(void **state)
{
    (void)state;
    ks_coordinator *c = make(4, NULL, 2);
    uint64_t first, count;
    ks_coordinator_ask(c, 0, 1, 0, &first, &count);
    assert_int_equal(first, 0);
    ks_coordinator_lost(c, 0, 1);
    ks_coordinator_finished(c, 0, 0, true, 2); /* a failure of one that is gone: another will try */
    assert_int_equal(progress(c, 2).failed, 0);
    ks_coordinator_ask(c, 1, 1, 2, &first, &count);
    assert_int_equal(first, 0);
    ks_coordinator_finished(c, 0, 0, true, 3); /* a failure of one that does not hold it */
    assert_int_equal(progress(c, 3).failed, 0);
    ks_coordinator_finished(c, 0, 0, false, 3); /* the first one was faster after all */
    ks_coordinator_finished(c, 1, 0, false, 4);
    ks_coordinator_finished(c, 1, 0, true, 4);
    assert_int_equal(progress(c, 4).done, 1);
    ks_coordinator_ask(c, 1, 1, 5, &first, &count);
    assert_int_equal(first, 1);
    ks_coordinator_lost(c, 1, 5);
    ks_coordinator_finished(c, 1, 1, false, 6); /* while nobody has it */
    ks_coordinator_finished(c, 1, 3, false, 6); /* never lent: disregarded */
    ks_coordinator_finished(c, 7, 2, false, 6);
    assert_int_equal(progress(c, 6).done, 2);
    assert_int_equal(progress(c, 6).failed, 0);
    ks_coordinator_ask(c, 1, 1, 6, &first, &count);
    assert_int_equal(first, 2);
    ks_coordinator_free(c);
}

/* Four workers, a point every 2 s each: 2 points a second, told within a few percent after a while,
 * and again after two of them have gone. */
static void progress_tells_speed_and_time_left(void **state)
{
    (void)state;
    ks_coordinator *c = make(100000, NULL, 4);
    assert_true(progress(c, 0).points_per_second < 0 && progress(c, 0).seconds_left < 0);
    uint64_t next[4] = {0}, end[4] = {0}, count;
    for (double now = 100; now < 1300; now += 2) {
        for (int w = 0; w < (now < 700 ? 4 : 2); w++) {
            if (next[w] < end[w])
                ks_coordinator_finished(c, w, next[w]++, false, now);
            if (next[w] < end[w])
                continue;
            assert_int_equal(ks_coordinator_ask(c, w, 1, now, &next[w], &count), KS_LEASE_GRANTED);
            end[w] = next[w] + count;
        }
        ks_progress p = progress(c, now + 1);
        double speed = now < 700 ? 2 : 1;
        if ((now > 150 && now < 700) || now > 1000) {
            assert_true(fabs(p.points_per_second / speed - 1) < 0.05);
            double left = (double)(p.points - p.done);
            assert_true(fabs(p.seconds_left * speed / left - 1) < 0.05);
        }
    }
    assert_true(progress(c, 1300).started == 100);
    ks_coordinator_free(c);
}

/* --- simulated runs --- */

enum { MOST_WORKERS = 40, ROOM = 6, QUEUE = 4096 };

typedef struct sim_worker {
    uint64_t queue[QUEUE];
    int queued, progress; /* points in hand; seconds already spent on the first */
    int point_seconds;
    double away_until; /* hangs until then, then goes on with what it has */
    bool dead;
} sim_worker;

typedef struct sim {
    ks_coordinator *c;
    dice dice;
    int workers;
    uint64_t points, reported, unique;
    uint8_t *seen;  /* reported at least once */
    int8_t *holder; /* by the simulation's own books; -1 nobody */
    sim_worker worker[MOST_WORKERS];
    bool can_expire;
    uint64_t waits, smallest, largest;
} sim;

/* What was granted must not be done, and, as long as no deadline passes unseen, with nobody. */
static void check_grant(sim *s, int w, uint64_t first, uint64_t count)
{
    assert_true(count >= 1 && first + count <= s->points);
    for (uint64_t p = first; p < first + count; p++) {
        assert_false(s->seen[p]);
        if (!s->can_expire)
            assert_int_equal(s->holder[p], -1);
        s->holder[p] = (int8_t)w;
    }
    s->largest = count > s->largest ? count : s->largest;
    s->smallest = count < s->smallest ? count : s->smallest;
}

static void sim_ask(sim *s, int number, double now)
{
    sim_worker *w = &s->worker[number];
    uint64_t first, count;
    ks_lease_answer answer = ks_coordinator_ask(s->c, number, ROOM, now, &first, &count);
    if (answer == KS_LEASE_GRANTED) {
        check_grant(s, number, first, count);
        assert_true(w->queued + (int)count <= QUEUE);
        for (uint64_t p = first; p < first + count; p++)
            w->queue[w->queued++] = p;
        return;
    }
    ks_progress p = progress(s->c, now);
    if (answer == KS_LEASE_LATER) { /* nobody waits while work is there */
        assert_int_equal(p.done_before + p.done + p.failed + p.lent, p.points);
        s->waits++;
    } else {
        assert_int_equal(p.done_before + p.done + p.failed, p.points);
    }
}

static void sim_report(sim *s, int number, double now)
{
    sim_worker *w = &s->worker[number];
    uint64_t point = w->queue[0];
    memmove(w->queue, w->queue + 1, sizeof *w->queue * (size_t)--w->queued);
    w->progress = 0;
    uint64_t before = progress(s->c, now).done;
    ks_coordinator_finished(s->c, number, point, false, now);
    assert_int_equal(progress(s->c, now).done, before + !s->seen[point]);
    s->unique += !s->seen[point];
    s->seen[point] = 1;
    s->reported++;
    if (roll(&s->dice, 50) == 0) /* said twice */
        ks_coordinator_finished(s->c, number, point, false, now);
}

static void sim_die(sim *s, int number, double now, bool is_seen)
{
    sim_worker *w = &s->worker[number];
    if (is_seen) {
        ks_coordinator_lost(s->c, number, now);
        for (int i = 0; i < w->queued; i++)
            s->holder[w->queue[i]] = -1;
    }
    w->queued = 0;
    w->dead = true;
}

/* One second of one worker. */
static void sim_second(sim *s, int number, double now)
{
    sim_worker *w = &s->worker[number];
    if (w->dead || now < w->away_until)
        return;
    for (int i = 0; i < ROOM && w->queued; i++) { /* its room is worked on together */
        if (++w->progress >= w->point_seconds)
            sim_report(s, number, now);
    }
    if (w->queued < ROOM)
        sim_ask(s, number, now);
}

/* Kills one worker in 4000 worker seconds (half of them unseen where deadlines run), and hangs
 * others. Worker 0 stays. */
static void sim_misfortune(sim *s, double now)
{
    for (int i = 1; i < s->workers; i++) {
        sim_worker *w = &s->worker[i];
        if (w->dead) {
            if (roll(&s->dice, 1000) == 0) /* started again: it says so */
                sim_die(s, i, now, true), w->dead = false;
            continue;
        }
        if (roll(&s->dice, 4000) == 0)
            sim_die(s, i, now, !s->can_expire || roll(&s->dice, 2));
        else if (s->can_expire && roll(&s->dice, 4000) == 0)
            w->away_until = now + (double)roll(&s->dice, 3000);
    }
}

static void sim_run(sim *s)
{
    double now = 0;
    for (; !ks_coordinator_complete(s->c); now += 1) {
        assert_true(now < 1e6);
        sim_misfortune(s, now);
        for (int w = 0; w < s->workers; w++)
            sim_second(s, w, now);
        if (s->can_expire)
            ks_coordinator_expire(s->c, now);
    }
    for (int w = 0; w < s->workers; w++) { /* those that hung come back with what they have */
        while (s->worker[w].queued)
            sim_report(s, w, now);
    }
}

static void simulate(uint64_t seed, bool can_expire, bool some_done)
{
    sim *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->dice.state = seed * 0x9e3779b97f4a7c15u + 1;
    s->workers = 2 + (int)roll(&s->dice, MOST_WORKERS - 1);
    s->points = 1 + roll(&s->dice, 20000);
    s->can_expire = can_expire;
    s->smallest = UINT64_MAX;
    s->seen = calloc(s->points, 1);
    s->holder = malloc(s->points);
    uint64_t *done = calloc(s->points / 64 + 1, sizeof *done), before = 0;
    assert_true(s->seen && s->holder && done);
    memset(s->holder, -1, s->points);
    for (uint64_t p = 0; some_done && p < s->points; p++) {
        if (roll(&s->dice, 3) == 0) {
            done[p / 64] |= (uint64_t)1 << p % 64;
            s->seen[p] = 1;
            before++;
        }
    }
    for (int w = 0; w < s->workers; w++)
        s->worker[w].point_seconds = 1 + (int)roll(&s->dice, 40);
    ks_coordinator_options options = {.points = s->points,
                                      .done = some_done ? done : NULL,
                                      .workers = s->workers,
                                      .deadline_seconds = 400};
    s->c = ks_coordinator_new(&options, NULL);
    memset(done, 0xff, (s->points / 64 + 1) * sizeof *done); /* it was copied */
    sim_run(s);
    ks_progress p = progress(s->c, 1e6);
    assert_int_equal(p.done_before, before);
    assert_int_equal(before + p.done, s->points);
    assert_int_equal(s->unique, p.done);
    assert_int_equal(p.lent, 0);
    assert_int_equal(p.workers_busy, 0);
    assert_true(memchr(s->seen, 0, s->points) == NULL);
    assert_true(s->points - before == 0 || s->smallest == 1);
    if (!can_expire)
        assert_int_equal(s->reported, p.done);
    ks_coordinator_free(s->c);
    free(s->seen);
    free(s->holder);
    free(done);
    free(s);
}

static void with_seen_losses_every_point_is_rendered_exactly_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++)
        simulate(seed, false, seed % 2);
}

static void with_hanging_and_unseen_losses_every_point_counts_exactly_once(void **state)
{
    (void)state;
    for (uint64_t seed = 101; seed <= 112; seed++)
        simulate(seed, true, seed % 2);
}

/* --- size --- */

static long peak_kib(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss;
}

/* 10^9 points: ten thousand workers each take leases, finish some points, and half of them get
 * lost. */
static void a_sweep_of_a_billion_points_takes_little_memory(void **state)
{
    (void)state;
    enum { WORKERS = 10000 };
    const uint64_t points = 1000000000;
    long before = peak_kib();
    ks_coordinator *c = make(points, NULL, WORKERS);
    uint64_t first, count, lent = 0, finished = 0, lost = 0;
    for (int round = 0; round < 4; round++) {
        for (int w = 0; w < WORKERS; w++) {
            assert_int_equal(ks_coordinator_ask(c, w, 256, round, &first, &count),
                             KS_LEASE_GRANTED);
            assert_true(count >= 256);
            lent += count;
            for (uint64_t i = 0; i < 8; i++, finished++)
                ks_coordinator_finished(c, w, first + 31 * i, false, round + 0.01 * (double)i);
        }
    }
    assert_int_equal(progress(c, 4).lent, lent - finished);
    for (int w = 0; w < WORKERS; w += 2)
        ks_coordinator_lost(c, w, 4);
    lost = lent - finished - progress(c, 4).lent;
    assert_true(lost > 0 && lost < lent);
    assert_int_equal(progress(c, 4).done, finished);
    assert_int_equal(progress(c, 4).taken_back, 4 * WORKERS / 2);
    assert_true(peak_kib() - before < 64 * 1024);
    ks_coordinator_free(c);
}

/* A resumed run with few points left among many: every one is lent, in order, and found without
 * going over all points again and again. */
static void the_few_points_left_of_many_are_found(void **state)
{
    (void)state;
    const uint64_t points = 100000000, stride = 9973;
    uint64_t *done = malloc(points / 64 * sizeof *done);
    assert_non_null(done);
    memset(done, 0xff, points / 64 * sizeof *done);
    for (uint64_t p = 0; p < points; p += stride)
        done[p / 64] &= ~((uint64_t)1 << p % 64);
    ks_coordinator *c = make(points, done, 3);
    free(done);
    uint64_t first, count, expected = 0;
    ks_lease_answer answer;
    while ((answer = ks_coordinator_ask(c, 0, 64, 1, &first, &count)) == KS_LEASE_GRANTED) {
        assert_int_equal(first, expected);
        assert_int_equal(count, 1);
        ks_coordinator_finished(c, 0, first, false, 1);
        expected += stride;
    }
    assert_int_equal(answer, KS_LEASE_FINISHED);
    assert_true(expected >= points);
    assert_int_equal(progress(c, 1).done_before + progress(c, 1).done, points);
    ks_coordinator_free(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_do_is_finished_at_once),
        cmocka_unit_test(wrong_options_are_refused),
        cmocka_unit_test(the_last_points_are_lent_later_only_when_all_are_out),
        cmocka_unit_test(a_lease_fills_the_room_when_work_is_plentiful),
        cmocka_unit_test(a_lease_lasts_as_long_as_asked_for),
        cmocka_unit_test(leases_shrink_to_one_point),
        cmocka_unit_test(the_last_points_are_for_workers_that_can_start_them),
        cmocka_unit_test(a_slow_worker_gets_a_smaller_share),
        cmocka_unit_test(a_lost_worker_s_unfinished_points_are_lent_again),
        cmocka_unit_test(neighbouring_points_taken_back_are_joined),
        cmocka_unit_test(a_lease_past_its_deadline_goes_to_another),
        cmocka_unit_test(the_deadline_is_stretched_for_slow_samples),
        cmocka_unit_test(late_and_double_results_count_once),
        cmocka_unit_test(progress_tells_speed_and_time_left),
        cmocka_unit_test(with_seen_losses_every_point_is_rendered_exactly_once),
        cmocka_unit_test(with_hanging_and_unseen_losses_every_point_counts_exactly_once),
        cmocka_unit_test(a_sweep_of_a_billion_points_takes_little_memory),
        cmocka_unit_test(the_few_points_left_of_many_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
