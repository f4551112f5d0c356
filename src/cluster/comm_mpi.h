/* MPI itself, for what is built on it beside comm.c. */
#ifndef KS_CLUSTER_COMM_MPI_H
#define KS_CLUSTER_COMM_MPI_H

#include <mpi.h>
#include <stdbool.h>

#include "cluster/comm.h"

/* All ranks; MPI_COMM_NULL without a launcher. */
MPI_Comm ks_comm_mpi(const ks_comm *comm);
/* Seconds that a rank waits for the others in a collective of all. */
double ks_comm_patience(const ks_comm *comm);
/* "rank 3 of 8: MPI_Isend with rank 7 failed: <MPI's text>" into err, and the ranks part without an orderly end; returns -1. other: the
 * rank that it concerns, or -1. */
int ks_comm_failed(ks_comm *comm, ks_error *err, int code, const char *what, int other);
/* Finds out who has died, where MPI tells. */
int ks_comm_look_for_dead(ks_comm *comm, ks_error *err);
bool ks_comm_is_dead(const ks_comm *comm, int rank);

#endif
