/* Ranks without MPI: alone, and what the environment says about who started the process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/comm.h"
#include "cluster/launcher.h"

/* MPI's own; declared here because mpi.h is private to the module. */
extern int MPI_Initialized(int *flag);

static const char *const launcher_variables[] = {
    "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS", "PMI_RANK",     "PMI_SIZE",     "PMIX_RANK",
    "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID",   "SLURM_NTASKS", "SLURM_PROCID",
};

/* Each test sees only what it sets itself, also when the tests themselves run in a Slurm step. */
static int forget_launchers(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof launcher_variables / sizeof *launcher_variables; i++)
        unsetenv(launcher_variables[i]);
    return 0;
}

static ks_launcher find(void)
{
    ks_launcher l;
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_launcher_find(&l, &err), 0);
    assert_string_equal(err.text, "");
    return l;
}

static void by_hand_there_is_one_rank_and_no_mpi(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_comm *comm = ks_comm_start(60, &err);
    assert_non_null(comm);
    int initialised = 1;
    MPI_Initialized(&initialised);
    assert_false(initialised);
    assert_int_equal(ks_comm_rank(comm), 0);
    assert_int_equal(ks_comm_size(comm), 1);
    assert_int_equal(ks_comm_local_rank(comm), 0);
    assert_int_equal(ks_comm_local_size(comm), 1);
    ks_comm_end(comm, 0, 60);
}

static void messages_to_oneself_come_in_order_and_once(void **state)
{
    (void)state;
    ks_comm *comm = ks_comm_start(60, NULL);
    ks_message m;
    int from = -1;
    assert_int_equal(ks_comm_receive(comm, &from, &m, NULL), 0);
    for (uint64_t round = 0; round < 3; round++) {
        for (uint64_t i = 0; i < 1000; i++) {
            m = (ks_message){
                .kind = 7, .flags = (uint32_t)round, .a = i, .b = ~i, .c = i * i, .d = UINT64_MAX};
            assert_int_equal(ks_comm_send(comm, 0, &m, NULL), 0);
            memset(&m, 0, sizeof m); /* it was copied */
        }
        for (uint64_t i = 0; i < 1000; i++) {
            assert_int_equal(ks_comm_receive(comm, &from, &m, NULL), 1);
            assert_int_equal(from, 0);
            assert_true(m.kind == 7 && m.flags == round && m.a == i && m.b == ~i && m.c == i * i &&
                        m.d == UINT64_MAX);
        }
        assert_int_equal(ks_comm_receive(comm, &from, &m, NULL), 0);
    }
    ks_comm_send(comm, 0, &m, NULL); /* one that nobody receives */
    ks_comm_end(comm, 0, 60);
}

static void a_rank_that_does_not_exist_is_refused(void **state)
{
    (void)state;
    ks_comm *comm = ks_comm_start(60, NULL);
    ks_message m = {.kind = 1};
    int from, bytes = 0;
    for (int to = -1; to <= 1; to += 2) {
        ks_error err = KS_ERROR_NONE;
        assert_int_equal(ks_comm_send(comm, to, &m, &err), -1);
        assert_non_null(strstr(err.text, to < 0 ? "rank -1" : "rank 1"));
        assert_int_equal(ks_comm_broadcast(comm, &bytes, sizeof bytes, to, &err), -1);
    }
    assert_int_equal(ks_comm_receive(comm, &from, &m, NULL), 0);
    ks_comm_end(comm, 0, 60);
}

static void collectives_of_one_rank_keep_the_values(void **state)
{
    (void)state;
    ks_comm *comm = ks_comm_start(60, NULL);
    int64_t most = -5;
    double sums[2] = {1.5, -2};
    char text[] = "same", all[] = "none";
    assert_int_equal(ks_comm_barrier(comm, NULL), 0);
    assert_int_equal(ks_comm_broadcast(comm, text, sizeof text, 0, NULL), 0);
    assert_int_equal(ks_comm_max(comm, &most, NULL), 0);
    assert_int_equal(ks_comm_sum(comm, sums, 2, NULL), 0);
    assert_int_equal(ks_comm_gather_node(comm, text, sizeof text, all, NULL), 0);
    assert_string_equal(text, "same");
    assert_int_equal(most, -5);
    assert_true(sums[0] == 1.5 && sums[1] == -2);
    assert_string_equal(all, "same");
    ks_comm_end(comm, 0, 60);
}

static void launchers_are_known_by_their_variables(void **state)
{
    (void)state;
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    ks_launcher l = find();
    assert_true(l.has_mpi && l.tasks == 4 && !strcmp(l.name, "mpirun"));
    forget_launchers(NULL);
    setenv("PMI_RANK", "0", 1);
    setenv("PMI_SIZE", "3", 1);
    l = find();
    assert_true(l.has_mpi && l.tasks == 3);
    setenv("MPI_LOCALNRANKS", "3", 1);
    l = find();
    assert_true(l.has_mpi && l.tasks == 3 && !strcmp(l.name, "mpiexec"));
}

static void slurm_with_pmix_tells_its_own_task_count(void **state)
{
    (void)state;
    setenv("SLURM_STEP_ID", "0", 1);
    setenv("SLURM_PROCID", "1", 1);
    setenv("SLURM_STEP_NUM_TASKS", "2", 1);
    setenv("PMIX_RANK", "1", 1);
    ks_launcher l = find();
    assert_true(l.has_mpi && l.tasks == 2);
}

/* mpirun -n 1 in an allocation of 4 tasks: its own count holds. */
static void mpirun_inside_of_a_slurm_step_is_mpirun(void **state)
{
    (void)state;
    setenv("SLURM_STEP_ID", "3", 1);
    setenv("SLURM_PROCID", "0", 1);
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    setenv("SLURM_NTASKS", "4", 1);
    setenv("PMIX_RANK", "0", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
    ks_launcher l = find();
    assert_true(l.has_mpi && l.tasks == 1);
}

/* sbatch -n 4 sets these for the script itself, which is in no step. */
static void a_batch_script_s_own_commands_run_alone(void **state)
{
    (void)state;
    setenv("SLURM_NTASKS", "4", 1);
    setenv("SLURM_PROCID", "0", 1);
    assert_false(find().has_mpi);
    setenv("SLURM_STEP_ID", "4294967290", 1); /* salloc's interactive step has one task */
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    assert_false(find().has_mpi);
}

static void several_srun_tasks_without_pmi_are_refused_in_one_line(void **state)
{
    (void)state;
    setenv("SLURM_STEP_ID", "0", 1);
    setenv("SLURM_PROCID", "2", 1);
    setenv("SLURM_NTASKS", "4", 1);
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_comm_start(60, &err));
    assert_string_equal(err.text, ""); /* the first task says it */
    setenv("SLURM_PROCID", "0", 1);
    assert_null(ks_comm_start(60, &err));
    assert_non_null(strstr(err.text, "srun started 4 tasks without PMI"));
    assert_null(strchr(err.text, '\n'));
    setenv("SLURM_STEP_NUM_TASKS", "2", 1); /* the step's own count is the better one */
    assert_null(ks_comm_start(60, &err));
    assert_non_null(strstr(err.text, "srun started 2 tasks"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(by_hand_there_is_one_rank_and_no_mpi, forget_launchers),
        cmocka_unit_test_setup(messages_to_oneself_come_in_order_and_once, forget_launchers),
        cmocka_unit_test_setup(a_rank_that_does_not_exist_is_refused, forget_launchers),
        cmocka_unit_test_setup(collectives_of_one_rank_keep_the_values, forget_launchers),
        cmocka_unit_test_setup(launchers_are_known_by_their_variables, forget_launchers),
        cmocka_unit_test_setup(slurm_with_pmix_tells_its_own_task_count, forget_launchers),
        cmocka_unit_test_setup(mpirun_inside_of_a_slurm_step_is_mpirun, forget_launchers),
        cmocka_unit_test_setup(a_batch_script_s_own_commands_run_alone, forget_launchers),
        cmocka_unit_test_setup(several_srun_tasks_without_pmi_are_refused_in_one_line,
                               forget_launchers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
