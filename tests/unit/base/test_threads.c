#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/threads.h"

enum { TASKS = 1000, WORKERS = 4 };

typedef struct tally {
    int runs[TASKS];
    int by_worker[WORKERS];
    int bad_worker;
} tally;

static void count_run(void *arg, int index, int worker)
{
    tally *t = arg;
    t->runs[index]++;
    if (worker < 0 || worker >= WORKERS)
        t->bad_worker = 1;
    else
        t->by_worker[worker]++; /* no two tasks may share a worker's number at one time */
}

static void every_index_runs_once(void **state)
{
    (void)state;
    ks_threads *pool = ks_threads_new(WORKERS, NULL);
    assert_non_null(pool);
    assert_int_equal(ks_threads_count(pool), WORKERS);
    static const int sizes[] = {0, 1, 2, 3, 4, 5, 17, TASKS};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        tally t = {0};
        ks_threads_run(pool, sizes[s], count_run, &t);
        int total = 0;
        for (int i = 0; i < TASKS; i++)
            assert_int_equal(t.runs[i], i < sizes[s]);
        for (int w = 0; w < WORKERS; w++)
            total += t.by_worker[w];
        assert_int_equal(total, sizes[s]);
        assert_false(t.bad_worker);
    }
    ks_threads_free(pool);
}

static void loops_follow_one_another(void **state)
{
    (void)state;
    ks_threads *pool = ks_threads_new(3, NULL);
    assert_non_null(pool);
    tally t = {0};
    for (int loop = 0; loop < 3000; loop++)
        ks_threads_run(pool, 1 + loop % 7, count_run, &t);
    for (int i = 0; i < 7; i++) {
        int wanted = 0;
        for (int loop = 0; loop < 3000; loop++)
            wanted += i < 1 + loop % 7;
        assert_int_equal(t.runs[i], wanted);
    }
    ks_threads_free(pool);
}

static void a_pool_of_one_needs_no_thread(void **state)
{
    (void)state;
    ks_threads *pool = ks_threads_new(1, NULL);
    tally t = {0};
    ks_threads_run(pool, 10, count_run, &t);
    assert_int_equal(t.by_worker[0], 10);
    ks_threads_free(pool);
}

static void zero_takes_the_cpus_at_hand(void **state)
{
    (void)state;
    ks_threads *pool = ks_threads_new(0, NULL);
    assert_non_null(pool);
    assert_true(ks_threads_available() >= 1);
    assert_int_equal(ks_threads_count(pool), ks_threads_available());
    ks_threads_free(pool);
    ks_threads_free(NULL);
}

static void senseless_counts_are_refused(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_threads_new(-1, &err));
    assert_string_equal(err.text, "-1 threads: 0 (all CPUs) to 4096 are possible");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_runs_once),
        cmocka_unit_test(loops_follow_one_another),
        cmocka_unit_test(a_pool_of_one_needs_no_thread),
        cmocka_unit_test(zero_takes_the_cpus_at_hand),
        cmocka_unit_test(senseless_counts_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
