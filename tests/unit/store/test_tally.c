#include <math.h>
#include <time.h>

#include "unit/store/fixture.h"

enum { SAMPLES = 20 };

static ks_tally tally_of(const char *out, double check_bytes)
{
    ks_tally t;
    ks_error err = KS_ERROR_NONE;
    if (ks_store_tally(out, check_bytes, &t, &err))
        fail_msg("%s", err.text);
    return t;
}

static void check_tally(const char *out, uint64_t samples, uint64_t done, uint64_t failed, uint64_t bad)
{
    ks_tally t = tally_of(out, HUGE_VAL);
    assert_non_null(t.info);
    assert_int_equal(t.info->samples, samples);
    assert_int_equal(t.done, done);
    assert_int_equal(t.failed, failed);
    assert_int_equal(t.bad, bad);
    ks_tally_free(&t);
}

static void collect(const char *out, const ks_store_info *info, const char *mode)
{
    ks_error err = KS_ERROR_NONE;
    if (ks_store_collect(out, info, mode, NULL, NULL, &err))
        fail_msg("%s", err.text);
}

static void nothing_is_no_info(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_tally t = tally_of(out, HUGE_VAL);
    assert_null(t.info);
    assert_int_equal(t.shards + t.unreadable, 0);
    free(out);
}

static void a_sample_counts_once_and_a_done_row_beats_a_failed_one(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_store_info info = make_info(SAMPLES, false, false);
    ks_shard *s = create_shard(out, &info);
    append_failed(s, 3, 3);
    append_failed(s, 4, 4);
    append(s, 5, 5, false);
    close_shard(s);
    check_tally(out, SAMPLES, 1, 2, 0);
    s = create_shard(out, &info);
    append(s, 3, 3, false);
    append_failed(s, 4, 4);
    append(s, 5, 5, false);
    close_shard(s);
    check_tally(out, SAMPLES, 2, 1, 0);
    free(out);
}

static void a_damaged_row_is_not_done_unless_latents_are_not_looked_at(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state), *path = shard_path(out, 0);
    ks_store_info info = make_info(SAMPLES, false, false);
    float latent[VALUES];
    write_shard(out, &info, 0, 1, 10);
    make_latent(4, latent);
    damage_file(path, latent, sizeof latent);
    check_tally(out, SAMPLES, 9, 0, 1);
    ks_tally t = tally_of(out, sizeof latent * 10 - 1);
    assert_false(t.checked);
    assert_int_equal(t.done, 10);
    ks_tally_free(&t);
    t = tally_of(out, sizeof latent * 10);
    assert_true(t.checked);
    ks_tally_free(&t);
    free(path);
    free(out);
}

/* Samples 0 to 9 of a job, then a job with twice as many, whose samples stand at other indices. */
static void rows_of_an_earlier_job_count_by_their_keys(void **state)
{
    const char *modes[] = {NULL, "merge", "virtual"};
    for (int i = 0; i < 3; i++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, i);
        ks_store_info before = make_info(10, false, false), after = make_info(20, false, false);
        after.job = "{\"ksweep\":1,\"grown\":true}";
        write_shard(out, &before, 0, 1, 10);
        if (modes[i])
            collect(out, &before, modes[i]);
        check_tally(out, 10, 10, 0, 0);
        struct timespec moment = {.tv_nsec = 20000000};
        nanosleep(&moment, NULL); /* the time of making decides which file is newest */
        ks_shard *s = create_shard(out, &after);
        append(s, 100, 0, false);
        append(s, 2, 7, false); /* was there already */
        append_failed(s, 101, 1);
        close_shard(s);
        check_tally(out, 20, 11, 1, 0);
        free(out);
    }
}

static void a_collected_file_is_counted_by_its_own_table(void **state)
{
    const char *modes[] = {"merge", "virtual"};
    for (int i = 0; i < 2; i++) {
        char *out = ks_format("%s/o%d.h5", (char *)*state, i), *shard = shard_path(out, 0);
        ks_store_info info = make_info(SAMPLES, false, false);
        float latent[VALUES];
        write_shard(out, &info, 0, 1, 12);
        collect(out, &info, modes[i]);
        check_tally(out, SAMPLES, 12, 0, 0);
        ks_tally t = tally_of(out, HUGE_VAL);
        assert_true(t.collected && t.has_out);
        assert_int_equal(t.shards, i);
        ks_tally_free(&t);
        make_latent(8, latent);
        damage_file(i ? shard : out, latent, sizeof latent);
        check_tally(out, SAMPLES, 11, 0, 1);
        if (i) { /* where a shard is gone, HDF5 reads zeros */
            assert_int_equal(unlink(shard), 0);
            check_tally(out, SAMPLES, 0, 0, 12);
        }
        free(shard);
        free(out);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_no_info),
        TEST(a_sample_counts_once_and_a_done_row_beats_a_failed_one),
        TEST(a_damaged_row_is_not_done_unless_latents_are_not_looked_at),
        TEST(rows_of_an_earlier_job_count_by_their_keys),
        TEST(a_collected_file_is_counted_by_its_own_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
