/* Ranks and the messages between them: Open MPI (or any MPI) under a launcher, nothing at all
 * without one.
 *
 * MPI is initialised only when the environment shows a launcher (mpirun, srun with PMIx or PMI):
 * `ksweep run` alone never starts it. Messages are small, of a fixed size, never lost, and in order
 * between two ranks; sending never blocks, also to oneself. MPI_ERRORS_RETURN everywhere: a failed
 * call is an error with the ranks in its text. All calls come from the thread that called
 * ks_comm_start (MPI_THREAD_FUNNELED). */
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

/* Finds out how it was started. Fails with one clear line when srun started several tasks without
 * PMI (each would think itself alone). Once a process: MPI cannot start again after ks_comm_end. */
ks_comm *ks_comm_start(ks_error *err);
/* Collective, waits for all; frees comm. Messages that nobody received are dropped. It waits for
 * ever for a rank that died: after a loss, ks_comm_abort is the way out. */
void ks_comm_end(ks_comm *comm);
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
