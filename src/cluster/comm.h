/* Ranks and the messages between them: Open MPI (or any MPI) under a launcher, nothing at all
 * without one.
 *
 * MPI is initialised only when the environment shows a launcher (mpirun, srun with PMIx or PMI):
 * `ksweep run` alone never starts it. Messages are small, of a fixed size, never lost, and in order
 * between two ranks; sending never blocks, also to oneself. MPI_ERRORS_RETURN everywhere: a failed
 * call is an error with the ranks in its text. All calls come from the thread that called
 * ks_comm_start (MPI_THREAD_FUNNELED).
 *
 * A rank that dies ends the whole job under most MPIs. Under ULFM (death.h) the others are told and
 * go on: messages to the dead are dropped, collectives fail. A rank that hangs cannot be told from
 * a slow one here: whoever waits for it decides, and gives it up. */
#ifndef KS_CLUSTER_COMM_H
#define KS_CLUSTER_COMM_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ks_comm ks_comm;

typedef struct ks_message {
    uint32_t kind;
    uint32_t flags;
    uint64_t a, b, c, d;
} ks_message;

/* Finds out how it was started. patience: seconds that a rank waits for the others here (then the
 * process ends with KS_EXIT_RESUMABLE) and in collectives (then they fail). Fails with one clear
 * line when srun started several tasks without PMI (each would think itself alone). Once a process:
 * MPI cannot start again after ks_comm_end. */
ks_comm *ks_comm_start(double patience, ks_error *err);
/* Collective, waits for all that live; frees comm. Messages that nobody received are dropped. code:
 * the exit code that this process is going to end with. No orderly end is possible when an MPI call
 * has failed, a rank was given up, or one does not come here within `seconds` (a minute at most).
 * Then it only sees to it that all ranks are ended with that code when this process exits; on other
 * ranks than 0 it waits for rank 0 to do so. */
void ks_comm_end(ks_comm *comm, int code, double seconds);
/* Ends every rank with this exit code; does not return. */
void ks_comm_abort(ks_comm *comm, int code) __attribute__((noreturn));

int ks_comm_rank(const ks_comm *comm);
int ks_comm_size(const ks_comm *comm);
int ks_comm_local_rank(const ks_comm *comm); /* among the ranks of this node */
int ks_comm_local_size(const ks_comm *comm);

/* m is copied. Progress of what was sent is made by later calls of ks_comm_send, ks_comm_receive
 * and ks_comm_end. */
int ks_comm_send(ks_comm *comm, int to, const ks_message *m, ks_error *err);
/* 1 a message, 0 none waits, -1 error. */
int ks_comm_receive(ks_comm *comm, int *from, ks_message *m, ks_error *err);

/* The next rank that has been found dead since the last call: 1, or 0 for none. */
int ks_comm_next_dead(ks_comm *comm, int *rank);
/* From now on collectives wait so many seconds more. */
void ks_comm_wait_longer(ks_comm *comm, double seconds);
/* Some rank hangs, and nobody waits for it any more: rank 0 decides so and tells the others. */
void ks_comm_give_up(ks_comm *comm);
/* This rank cannot work with the others any more. */
void ks_comm_break(ks_comm *comm);
/* Whether that is so, or an MPI call has failed. */
bool ks_comm_broken(const ks_comm *comm);

/* Of all ranks of this node, in their order: each one's `size` bytes. Collective over all ranks. */
int ks_comm_gather_node(ks_comm *comm, const void *mine, int size, void *all, ks_error *err);

/* Collectives: every rank calls them in the same order. broadcast: size bytes from root. */
int ks_comm_barrier(ks_comm *comm, ks_error *err);
int ks_comm_broadcast(ks_comm *comm, void *data, uint64_t size, int root, ks_error *err);
/* The same among the ranks of this node, from its first one. */
int ks_comm_node_broadcast(ks_comm *comm, void *data, int size, ks_error *err);
/* The largest of the ranks' values, on every rank. */
int ks_comm_max(ks_comm *comm, int64_t *value, ks_error *err);
/* Element-wise sums on every rank. */
int ks_comm_sum(ks_comm *comm, double *values, int count, ks_error *err);

#endif
