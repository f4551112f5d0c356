/* Who renders what: a state machine without clock, network or MPI, so that a simulation can drive
 * it as well.
 *
 * The sweep is `points` KSampler calls, numbered 0..points-1 (a point gives `batch` samples).
 * Points not done yet are lent out as leases: ranges of consecutive points. Leases shrink towards
 * the end, so that nobody waits for the last one. A lease that is not finished by its deadline is
 * taken back and lent again; work that comes in twice counts once.
 *
 * Memory grows with the leases that are out and with what was taken back, not with the sweep (but
 * for the copy of the done bitmap); every call takes O(log n) in those, but for giving back a
 * lease, which looks at each of its points. Worker numbers outside 0..workers-1 and points that
 * were never lent are disregarded. */
#ifndef KS_CLUSTER_COORDINATOR_H
#define KS_CLUSTER_COORDINATOR_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ks_coordinator ks_coordinator;

typedef struct ks_coordinator_options {
    uint64_t points;
    /* Bitmap, bit i of word i/64: point i needs no rendering. NULL: none is done. Copied. */
    const uint64_t *done;
    int workers;
    double lease_seconds; /* aim for leases of about this length; 0: 30 */
    /* A lease is taken back after at least this; 0: 600. Stretched for slow samples. */
    double deadline_seconds;
} ks_coordinator_options;

typedef enum ks_lease_answer {
    KS_LEASE_GRANTED,  /* first, count are set */
    KS_LEASE_LATER,    /* all is lent out, or the rest is for emptier workers: ask again */
    KS_LEASE_FINISHED, /* every point is done: no more work ever */
} ks_lease_answer;

ks_coordinator *ks_coordinator_new(const ks_coordinator_options *options, ks_error *err);
void ks_coordinator_free(ks_coordinator *c);

/* now: seconds on any clock that never goes back. room: points the worker can have in flight at
 * once. A lease fills the room as long as work is plentiful, lasts about lease_seconds once the
 * worker's speed is known, and is never larger than keeps all workers busy: the last points are
 * only for workers that hold less than their room. A worker whose lease was taken back may be lent
 * points that it still has in flight: it goes on with those. */
ks_lease_answer ks_coordinator_ask(ks_coordinator *c, int worker, int room, double now,
                                   uint64_t *first, uint64_t *count);

/* The worker has finished one point. A late result (the lease was taken back) counts if nobody was
 * faster; a late failure does not. */
void ks_coordinator_finished(ks_coordinator *c, int worker, uint64_t point, bool failed,
                             double now);

/* What the worker expects one point to take from start to end, for example from its first network
 * calls: deadlines are stretched to it before a point has been measured. 0: not known. */
void ks_coordinator_expect(ks_coordinator *c, int worker, double point_seconds);

/* The worker is gone, or gives back what it holds: its unfinished points are lent again. */
void ks_coordinator_lost(ks_coordinator *c, int worker, double now);

/* Takes back leases past their deadline; how many. Call now and then. */
int ks_coordinator_expire(ks_coordinator *c, double now);

/* How many leases were taken back from the worker because of their deadline. */
uint64_t ks_coordinator_late(const ks_coordinator *c, int worker);

typedef struct ks_progress {
    /* done and failed: in this run; done_before: at its start; lent: unfinished and with a worker.
     * All is over when done_before + done + failed == points. */
    uint64_t points, done_before, done, failed, lent;
    double started;                         /* the time of the first ask; 0 before it */
    double points_per_second, seconds_left; /* over a recent window; < 0: not known yet */
    int workers_busy;                       /* those that hold a lease */
    uint64_t taken_back;                    /* leases, by deadline or loss */
} ks_progress;
void ks_coordinator_progress(const ks_coordinator *c, double now, ks_progress *out);
bool ks_coordinator_complete(const ks_coordinator *c);

#endif
