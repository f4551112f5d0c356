/* Which of a node's GPUs and CPUs a rank has, by what each rank sees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "cluster/device.h"

enum { RANKS = 4 };

/* A rank that sees these GPUs ("ab": two) and is bound to CPUs first..last. */
static ks_device_view view(const char *gpus, int first, int last)
{
    ks_device_view v = {.gpus = (int32_t)strlen(gpus)};
    for (int i = 0; i < v.gpus; i++)
        memset(v.gpu[i], gpus[i], KS_GPU_ID);
    for (int cpu = first; cpu <= last; cpu++)
        v.cpu[cpu / 8] |= (uint8_t)(1 << (cpu % 8));
    return v;
}

/* Four ranks that see these GPUs get those of the numbers in `wanted`; '-': none. */
static void expect_gpus(const char *const gpus[RANKS], bool share, const char *wanted)
{
    ks_device_view all[RANKS];
    for (int i = 0; i < RANKS; i++)
        all[i] = view(gpus[i], 0, 0);
    ks_device_node node = {all, RANKS};
    for (int i = 0; i < RANKS; i++)
        assert_int_equal(ks_device_gpu(&node, i, share), wanted[i] == '-' ? -1 : wanted[i] - '0');
}

static void each_rank_takes_its_own_of_the_node_s_gpus(void **state)
{
    (void)state;
    expect_gpus((const char *const[]){"abcd", "abcd", "abcd", "abcd"}, false, "0123");
    expect_gpus((const char *const[]){"abcd", "abcd", "abcd", "abcd"}, true, "0123");
    expect_gpus((const char *const[]){"dcba", "abcd", "abcd", "abcd"}, false, "0012");
}

/* As Slurm does it with --gpus-per-task=1 and =2. */
static void ranks_that_are_bound_to_gpus_take_those(void **state)
{
    (void)state;
    expect_gpus((const char *const[]){"a", "b", "c", "d"}, false, "0000");
    expect_gpus((const char *const[]){"ab", "cd", "ef", "gh"}, false, "0000");
}

static void more_ranks_than_gpus_are_refused(void **state)
{
    (void)state;
    expect_gpus((const char *const[]){"a", "a", "a", "a"}, false, "0---");
    expect_gpus((const char *const[]){"ab", "ab", "ab", "ab"}, false, "01--");
    expect_gpus((const char *const[]){"a", "b", "b", "a"}, false, "00--");
}

static void they_share_evenly_when_asked_to(void **state)
{
    (void)state;
    expect_gpus((const char *const[]){"a", "a", "a", "a"}, true, "0000");
    expect_gpus((const char *const[]){"ab", "ab", "ab", "ab"}, true, "0101");
    ks_device_view all[RANKS] = {view("ab", 0, 0), view("ab", 0, 0), view("ab", 0, 0), view("", 0, 0)};
    ks_device_node node = {all, RANKS};
    assert_int_equal(ks_device_sharers(&node, 0, true), 2);
    assert_int_equal(ks_device_sharers(&node, 1, true), 1);
    assert_int_equal(ks_device_sharers(&node, 3, true), RANKS); /* the CPU */
}

static void expect_idle(const char *const *gpus, int ranks, bool share, int wanted)
{
    ks_device_view all[RANKS];
    for (int i = 0; i < ranks; i++)
        all[i] = view(gpus[i], 0, 0);
    ks_device_node node = {all, ranks};
    assert_int_equal(ks_device_idle_gpus(&node, share), wanted);
}

static void gpus_that_no_rank_renders_on_are_counted(void **state)
{
    (void)state;
    expect_idle((const char *const[]){"abcd"}, 1, false, 3);
    expect_idle((const char *const[]){"abcd", "abcd", "abcd", "abcd"}, 4, false, 0);
    expect_idle((const char *const[]){"a", "b", "c"}, 3, false, 0); /* --gpus-per-task=1 */
    expect_idle((const char *const[]){"ab", "cd"}, 2, false, 2);
    expect_idle((const char *const[]){"ab", "ab", "ab"}, 3, true, 0);
    expect_idle((const char *const[]){"", ""}, 2, false, 0);
}

static void ranks_that_are_not_bound_share_the_cpus(void **state)
{
    (void)state;
    ks_device_view all[RANKS];
    for (int i = 0; i < RANKS; i++)
        all[i] = view("", 0, 15);
    ks_device_node node = {all, RANKS};
    for (int i = 0; i < RANKS; i++)
        assert_int_equal(ks_device_threads(&node, i), 4);
    node.ranks = 3;
    assert_int_equal(ks_device_threads(&node, 0), 5);
}

/* As Slurm and mpirun do it: dividing once more would leave CPUs idle. */
static void ranks_that_are_bound_have_all_their_cpus(void **state)
{
    (void)state;
    ks_device_view all[RANKS] = {view("", 0, 3), view("", 4, 7), view("", 8, 8191), view("", 2000, 2001)};
    ks_device_node node = {all, RANKS};
    assert_int_equal(ks_device_threads(&node, 0), 4);
    assert_int_equal(ks_device_threads(&node, 1), 4);
    assert_int_equal(ks_device_threads(&node, 2), 8183); /* two of its CPUs count by half */
    assert_int_equal(ks_device_threads(&node, 3), 1);
}

static void more_ranks_than_cpus_have_one_thread_each(void **state)
{
    (void)state;
    ks_device_view all[RANKS];
    for (int i = 0; i < RANKS; i++)
        all[i] = view("", 0, 1);
    ks_device_node node = {all, RANKS};
    assert_int_equal(ks_device_threads(&node, 3), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_rank_takes_its_own_of_the_node_s_gpus),
        cmocka_unit_test(ranks_that_are_bound_to_gpus_take_those),
        cmocka_unit_test(more_ranks_than_gpus_are_refused),
        cmocka_unit_test(they_share_evenly_when_asked_to),
        cmocka_unit_test(gpus_that_no_rank_renders_on_are_counted),
        cmocka_unit_test(ranks_that_are_not_bound_share_the_cpus),
        cmocka_unit_test(ranks_that_are_bound_have_all_their_cpus),
        cmocka_unit_test(more_ranks_than_cpus_have_one_thread_each),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
