/* The rows of a network call, as the device's free memory decides them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "cluster/load.h"
#include "cluster/setup.h"

static ks_setup setup;
static ks_ops *ops;
static double free_bytes;

static size_t memory_free(ks_ops *self)
{
    (void)self;
    return (size_t)free_bytes;
}

static int open_demo(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    const char *sets[] = {"seed.count=1000", "latent_image.width=512", "latent_image.height=512"};
    ks_job_source source = {.path = TEST_ROOT "/jobs/demo.json", .sets = sets, .set_count = 3};
    ks_job *job = ks_job_from_source(&source, &err);
    ops = ks_ops_cpu(1, &err);
    if (!job || !ops || ks_setup_open(&setup, job, &err))
        fail_msg("%s", err.text);
    ops->memory_free = memory_free;
    return 0;
}

static int close_demo(void **state)
{
    (void)state;
    ks_setup_close(&setup);
    ops->free(ops);
    return 0;
}

static int rows_with(double bytes, int ranks)
{
    ks_error err = KS_ERROR_NONE;
    int rows = 0;
    free_bytes = bytes;
    if (ks_setup_choose_rows(&setup, ops, ranks, false, &rows, &err))
        fail_msg("%s", err.text);
    return rows;
}

static void rows_fall_with_memory_and_always_fit(void **state)
{
    (void)state;
    ks_memory_need need = ks_setup_memory(&setup, ops);
    int last = rows_with(1e12, 1);
    assert_true(last > 1);
    for (double left = 2 * last; left >= 1; left *= 0.9) {
        double bytes = need.fixed + left * need.row;
        int rows = rows_with(bytes, 1);
        assert_true(rows >= 1 && rows <= last);
        assert_true(need.fixed + rows * need.row <= bytes);
        last = rows;
    }
    assert_int_equal(last, 1);
    double loaded = need.fixed + 3.5 * need.row;
    int rows = 0;
    ks_error err = KS_ERROR_NONE;
    free_bytes = loaded - need.weights;
    assert_int_equal(ks_setup_choose_rows(&setup, ops, 1, true, &rows, &err), 0);
    assert_int_equal(rows, rows_with(loaded, 1));
    double shared = need.fixed + 4 * need.row;
    assert_int_equal(rows_with(2 * shared, 2), rows_with(shared, 1));
}

static void too_little_memory_is_told_with_both_amounts(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    int rows = 0;
    free_bytes = 200 * 0x1p20;
    assert_int_equal(ks_setup_choose_rows(&setup, ops, 1, false, &rows, &err), -1);
    assert_non_null(strstr(err.text, "1 row of 512 x 512 pixels need about"));
    assert_non_null(strstr(err.text, "200.0 MiB are free"));
    assert_non_null(strstr(err.text, "decoding"));
}

static void rows_that_were_asked_for_must_fit(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_memory_need need = ks_setup_memory(&setup, ops);
    int rows = 40;
    free_bytes = need.fixed + 40 * need.row;
    assert_int_equal(ks_setup_choose_rows(&setup, ops, 1, false, &rows, &err), 0);
    assert_int_equal(rows, 40);
    rows = 41;
    assert_int_equal(ks_setup_choose_rows(&setup, ops, 1, false, &rows, &err), -1);
    assert_non_null(strstr(err.text, "41 rows"));
    assert_non_null(strstr(err.text, "parallel.batch_rows"));
}

/* Everything that a run loads is counted: the text encoder and the decoder beside the UNet. */
static void all_networks_are_counted(void **state)
{
    (void)state;
    ks_memory_need with = ks_setup_memory(&setup, ops);
    setup.job->images = false;
    ks_memory_need without = ks_setup_memory(&setup, ops);
    bool texts = setup.texts;
    setup.texts = false;
    ks_memory_need alone = ks_setup_memory(&setup, ops);
    setup.job->images = true;
    setup.texts = texts;
    assert_true(texts);
    assert_true(with.weights > without.weights && without.weights > alone.weights);
    assert_true(alone.weights == 4.0 * (double)setup.config.parameters);
    assert_true(with.decoding > 0 && without.decoding == 0);
}

/* A call's rows are dealt out evenly to the ranks of "rows", none of which gets fewer for memory's sake than it alone would. */
static void rows_of_several_ranks_are_a_multiple_and_fit(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    int alone = rows_with(1e12, 1);
    setup.job->rows = 3;
    ks_memory_need need = ks_setup_memory(&setup, ops);
    int last = rows_with(1e12, 1), rows = 0;
    assert_int_equal(last, 3 * alone);
    for (double left = 2 * last; left >= 3; left *= 0.9) {
        double bytes = need.fixed + left * need.row;
        rows = rows_with(bytes, 1);
        assert_true(rows >= 3 && rows <= last && rows % 3 == 0);
        assert_true(need.fixed + rows * need.row <= bytes);
        last = rows;
    }
    assert_int_equal(last, 3);
    rows = 0;
    free_bytes = need.fixed + 2.9 * need.row;
    assert_int_equal(ks_setup_choose_rows(&setup, ops, 1, false, &rows, &err), -1);
    assert_non_null(strstr(err.text, "3 rows"));
    setup.job->rows = 1;
}

static void a_part_of_the_layers_takes_a_part_of_the_memory(void **state)
{
    (void)state;
    ks_memory_need whole = ks_setup_memory(&setup, ops);
    double unet = 4.0 * (double)setup.config.parameters;
    setup.job->tensor = 2;
    ks_memory_need half = ks_setup_memory(&setup, ops);
    setup.job->rows = 2;
    ks_memory_need quarter = ks_setup_memory(&setup, ops);
    setup.job->tensor = setup.job->rows = 1;
    assert_true(whole.follower_weights == unet);
    assert_true(half.follower_weights > 0.5 * unet && half.follower_weights < 0.9 * unet);
    assert_true(fabs(whole.weights - half.weights - (unet - half.follower_weights)) < 16); /* text encoder and decoder are whole */
    assert_true(half.row < whole.row && quarter.row < half.row);
    assert_true(half.follower_row < half.row && quarter.weights == half.weights);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_fall_with_memory_and_always_fit),
        cmocka_unit_test(too_little_memory_is_told_with_both_amounts),
        cmocka_unit_test(rows_that_were_asked_for_must_fit),
        cmocka_unit_test(all_networks_are_counted),
        cmocka_unit_test(rows_of_several_ranks_are_a_multiple_and_fit),
        cmocka_unit_test(a_part_of_the_layers_takes_a_part_of_the_memory),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
