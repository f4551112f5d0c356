/* Who started this process, by its environment alone: so that `ksweep run` by hand never touches
 * MPI. */
#ifndef KS_CLUSTER_LAUNCHER_H
#define KS_CLUSTER_LAUNCHER_H

#include <stdbool.h>

#include "base/error.h"

typedef struct ks_launcher {
    bool has_mpi;     /* the environment can carry an MPI_Init */
    const char *name; /* "mpirun", "srun"; NULL: started by hand or by a batch script */
    int tasks;        /* that it says it started; 1 where it does not say */
    int task;         /* which of them this one is; 0 where it does not say */
} ks_launcher;

/* out is set in every case. Fails when srun started several tasks without PMI: each would think itself alone and write the
 * same files. */
int ks_launcher_find(ks_launcher *out, ks_error *err);

#endif
