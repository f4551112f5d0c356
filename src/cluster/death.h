/* Ranks that died, under an MPI that survives it: ULFM, the fault tolerance of Open MPI 5 (mpirun --with-ft ulfm; MPI Forum's
 * proposal, fault-tolerance.org). Under any other MPI nothing is ever found dead here: a death ends the whole job, or nobody
 * is told. */
#ifndef KS_CLUSTER_DEATH_H
#define KS_CLUSTER_DEATH_H

#include <mpi.h>
#include <stdbool.h>

/* Whether this run goes on when a rank dies: the MPI can, and its launcher was told to. After MPI_Init. */
bool ks_death_survived(void);

/* Whether an MPI call failed with this code because a rank has died. */
bool ks_death_is(int code);

/* Sets dead[rank] for every rank of the communicator that is known to be dead, and lets it receive from any rank again. Returns an
 * MPI code. */
int ks_death_find(MPI_Comm comm, int size, bool *dead);

/* Collective among those that live: waits for all of them, whoever dies meanwhile, and counts them. Returns an MPI code. */
int ks_death_barrier(MPI_Comm comm, int *living);

#endif
