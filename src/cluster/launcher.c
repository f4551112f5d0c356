#include "cluster/launcher.h"

#include <stddef.h>
#include <stdlib.h>

/* Launchers that MPI can talk to, by the variable that each sets. The first that matches decides:
 * mpirun inside of a Slurm step sets its own beside Slurm's, and its own count holds. tasks and
 * task NULL: as Slurm's step says. */
static const struct {
    const char *variable, *tasks, *task, *name;
} launchers[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "mpirun"}, /* Open MPI */
    {"MPI_LOCALNRANKS", "PMI_SIZE", "PMI_RANK", "mpiexec"},                 /* MPICH and Intel MPI (hydra) */
    {"PMI_RANK", "PMI_SIZE", "PMI_RANK", "srun (PMI)"},                     /* srun --mpi=pmi2, Cray */
    {"PMIX_RANK", NULL, NULL, "srun (PMIx)"},                               /* srun --mpi=pmix, prun */
};

static int number(const char *variable)
{
    const char *text = variable ? getenv(variable) : NULL;
    return text ? atoi(text) : 0;
}

/* Tasks of the Slurm step that this process is one of; 1 outside of a step (a batch script is in
 * none, although its SLURM_NTASKS tells what it could start). */
static int step_tasks(void)
{
    if (!getenv("SLURM_STEP_ID") || !getenv("SLURM_PROCID"))
        return 1;
    int tasks = number(getenv("SLURM_STEP_NUM_TASKS") ? "SLURM_STEP_NUM_TASKS" : "SLURM_NTASKS");
    return tasks > 1 ? tasks : 1;
}

int ks_launcher_find(ks_launcher *out, ks_error *err)
{
    for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
        if (!getenv(launchers[i].variable))
            continue;
        int tasks = launchers[i].tasks ? number(launchers[i].tasks) : step_tasks();
        int task = number(launchers[i].task ? launchers[i].task : "SLURM_PROCID");
        *out = (ks_launcher){true, launchers[i].name, tasks > 1 ? tasks : 1, task};
        return 0;
    }
    int tasks = step_tasks();
    *out = (ks_launcher){.has_mpi = false, .tasks = 1, .task = tasks > 1 ? number("SLURM_PROCID") : 0};
    if (tasks > 1)
        return ks_error_set(err,
                            "srun started %d tasks without PMI, so each would render the whole "
                            "job alone: use `srun --mpi=pmix` (or pmi2 with MPICH), mpirun, or "
                            "one task",
                            tasks);
    return 0;
}
