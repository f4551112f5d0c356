/* A rank's part in a run: points from the coordinator, messages between network calls, an orderly stop.
 *
 * Rank 0 holds the coordinator and is a worker like the others; it answers between its own network calls, so every worker
 * asks for its next lease before the last one is used up.
 *
 * A rank that dies, where MPI lets the others live, and one that hangs lose what they were lent to others. One that hangs and goes on
 * later may still deliver: its results count where nobody was faster. At the end rank 0 waits for a silent rank no longer than for a
 * lease; before that it goes through the rank's messages. Without rank 0 there is no run. */
#ifndef KS_CLUSTER_WORKER_H
#define KS_CLUSTER_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "cluster/comm.h"
#include "cluster/coordinator.h"

typedef struct ks_worker ks_worker;

enum { KS_WORKER_SUMS = 7 };

/* coordinator: on rank 0, else NULL; its workers are the replicas. replica: ranks of one, whose first alone asks for leases. room:
 * points this rank can have in flight at once. deadline: seconds that another rank waits for rank 0's answer, or more where points are
 * slow. */
ks_worker *ks_worker_new(ks_comm *comm, ks_coordinator *coordinator, int replica, int room, double deadline);
void ks_worker_free(ks_worker *w);

/* Next point to render: 1 given, 0 none now. */
int ks_worker_next(ks_worker *w, uint64_t *point);

/* The point that will be given k points after the next one: 1, or 0 where that is not known. */
int ks_worker_peek(const ks_worker *w, uint64_t k, uint64_t *point);

/* A point has ended and is written, though perhaps not to disk: rank 0 is not told yet, as a rank that dies now would lose it. */
void ks_worker_done(ks_worker *w, uint64_t point, bool failed);

/* Whether rank 0 should hear now of the points that have ended, because this rank is about to ask for more or has none left. */
bool ks_worker_should_tell(const ks_worker *w);

/* All points that have ended are safe on disk: tells rank 0. rows, saved: network rows of this rank so far. */
int ks_worker_tell(ks_worker *w, double rows, double saved, ks_error *err);

/* Tells, before the first point has ended, how long one will take: the deadlines of leases are stretched to it. */
int ks_worker_expect(ks_worker *w, double point_seconds, ks_error *err);

/* Between network calls: takes and answers messages, asks for leases, minds signals. 0 go on, 1 stop, -1 error. idle: nothing is in
 * flight, so it may sleep a little. *finished: no work will come any more. */
int ks_worker_poll(ks_worker *w, bool idle, bool *finished, ks_error *err);

/* Whether rank 0 has ended the run for this rank, so that nothing may be written any more: after a hang that it was given up for. -1:
 * error. */
int ks_worker_released(ks_worker *w, ks_error *err);

/* In the place of that on a rank that works for another one: takes messages, minds signals, and lets rank 0 know that it lives. 0 go on,
 * 1 rank 0 has ended the run for this rank, -1 error. */
int ks_worker_follow(ks_worker *w, ks_error *err);

/* Tells that this rank's rendering has ended (outcome: 0 done, 1 stopped, -1 failed, or KS_WORKER_LOST: its device has failed, and
 * others take over its points) and what it did. Rank 0 then serves the others until all have ended that are not dead or given up,
 * and gets the worst outcome of all, where lost ranks count only if points are left over and nothing else went wrong; other ranks
 * get their own back. meanwhile: what rank 0 does again and again until then; -1 ends it. */
enum { KS_WORKER_LOST = 2 };
int ks_worker_end(ks_worker *w, int outcome, const double sums[KS_WORKER_SUMS], int (*meanwhile)(void *self, ks_error *err), void *self,
                  ks_error *err);

/* Rank 0: whether a rank has died or was given up. */
bool ks_worker_missed(const ks_worker *w);

/* Rank 0: the sums over all ranks that have ended. */
void ks_worker_sum(const ks_worker *w, double sums[KS_WORKER_SUMS]);

/* Rank 0, when all is collected: lets the others go with the run's outcome. failed: rank 0 has something to say about its failure. */
int ks_worker_release(ks_worker *w, int outcome, bool failed, ks_error *err);

/* Other ranks: wait for that, asleep most of the time. */
int ks_worker_wait(ks_worker *w, int *outcome, ks_error *err);

/* After either of them: how many ranks failed, on the one rank that is to say why; 0 on the others. */
int ks_worker_failures(const ks_worker *w);

/* True once the first lease has come or there is none. For starting full. */
bool ks_worker_ready(const ks_worker *w);

/* True from the moment that this rank's queue is empty and no more leases are to be had at once. */
bool ks_worker_dry(const ks_worker *w);

/* Rank 0: rows computed and saved by all ranks as far as they have told. */
void ks_worker_rows(const ks_worker *w, double *rows, double *saved);

#endif
