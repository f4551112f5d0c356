#include "cluster/death.h"

#include <stdlib.h>

#include "base/file.h"
#ifdef KSWEEP_ULFM
#include <mpi-ext.h>

bool ks_death_survived(void)
{
    int *enabled = NULL, known = 0;
    return MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_FT, &enabled, &known) == MPI_SUCCESS && known && *enabled;
}

bool ks_death_is(int code)
{
    int class = MPI_SUCCESS;
    if (code != MPI_SUCCESS)
        MPI_Error_class(code, &class);
    return class == MPIX_ERR_PROC_FAILED || class == MPIX_ERR_PROC_FAILED_PENDING;
}

/* Marks the ranks of `all` that are in the group `some`. */
static int mark_members(MPI_Group all, MPI_Group some, int size, bool *marked)
{
    int count = 0, code = MPI_Group_size(some, &count);
    int *inner = ks_calloc(2 * (size_t)count + 1, sizeof *inner), *outer = inner + count;
    for (int i = 0; i < count; i++)
        inner[i] = i;
    if (code == MPI_SUCCESS)
        code = MPI_Group_translate_ranks(some, count, inner, all, outer);
    for (int i = 0; i < count && code == MPI_SUCCESS; i++) {
        if (outer[i] >= 0 && outer[i] < size)
            marked[outer[i]] = true;
    }
    free(inner);
    return code;
}

int ks_death_find(MPI_Comm comm, int size, bool *dead)
{
    MPI_Group all = MPI_GROUP_NULL, some = MPI_GROUP_NULL;
    int code = MPIX_Comm_failure_ack(comm);
    if (code == MPI_SUCCESS)
        code = MPIX_Comm_failure_get_acked(comm, &some);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_group(comm, &all);
    if (code == MPI_SUCCESS)
        code = mark_members(all, some, size, dead);
    if (all != MPI_GROUP_NULL)
        MPI_Group_free(&all);
    if (some != MPI_GROUP_NULL)
        MPI_Group_free(&some);
    return code;
}

int ks_death_barrier(MPI_Comm comm, int *living)
{
    MPI_Comm those = MPI_COMM_NULL;
    int code = MPIX_Comm_shrink(comm, &those);
    if (code != MPI_SUCCESS)
        return code;
    MPI_Comm_set_errhandler(those, MPI_ERRORS_RETURN);
    code = MPI_Comm_size(those, living);
    if (code == MPI_SUCCESS)
        code = MPI_Barrier(those);
    MPI_Comm_free(&those);
    return code;
}

#else

bool ks_death_survived(void)
{
    return false;
}

bool ks_death_is(int code)
{
    (void)code;
    return false;
}

int ks_death_find(MPI_Comm comm, int size, bool *dead)
{
    (void)comm;
    (void)size;
    (void)dead;
    return MPI_SUCCESS;
}

int ks_death_barrier(MPI_Comm comm, int *living)
{
    MPI_Comm_size(comm, living);
    return MPI_Barrier(comm);
}

#endif
