/* --set PATH=VALUE. */
#include "unit/job/job_file.h"

static void a_value_is_json_where_it_can_be(void **state)
{
    (void)state;
    ks_job *job = small_job("cfg=[1, 2.5]");
    assert_int_equal(job->cfgs, 2);
    ks_job_free(job);
    job = small_job("seed=18446744073709551615");
    assert_int_equal(job->seed_start, UINT64_MAX);
    assert_non_null(strstr(job->text, "\"seed\":18446744073709551615"));
    ks_job_free(job);
}

static void a_value_is_a_text_where_it_is_no_json(void **state)
{
    (void)state;
    ks_job *job = small_job("positive=a \\ \"b\" = c\td");
    assert_string_equal(job->positive[0].label, "a \\ \"b\" = c\td");
    ks_job_free(job);
    job = small_job("positive=");
    assert_string_equal(job->positive[0].label, "");
    ks_job_free(job);
    job = small_job("positive=\"7\"");
    assert_string_equal(job->positive[0].label, "7");
    ks_job_free(job);
}

static void members_are_replaced_and_made(void **state)
{
    (void)state;
    ks_job *job = small_job("output.images=true");
    assert_true(job->images);
    assert_string_equal(strrchr(job->output, '/'), "/out.h5");
    ks_job_free(job);
    job = small_job("parallel.batch_rows=8");
    assert_int_equal(job->batch_rows, 8);
    ks_job_free(job);
}

static void the_output_may_be_named_by_a_set_alone(void **state)
{
    (void)state;
    ks_job *job = load_job("{\"ksweep\":1,\"model\":\"m\",\"positive\":\"p\","
                           "\"latent_image\":{\"width\":64,\"height\":64}}",
                           "output.file=/results/o.h5");
    assert_string_equal(job->output, "/results/o.h5");
    assert_string_equal(job->text, "{\"ksweep\":1,\"model\":\"m\",\"positive\":\"p\","
                                   "\"latent_image\":{\"width\":64,\"height\":64},"
                                   "\"output\":{\"file\":\"/results/o.h5\"}}");
    ks_job_free(job);
}

#define LISTS                                                                                      \
    "{\"ksweep\":1,\"model\":\"m\",\"positive\":[\"a\",[\"b\",{\"text\":\"c\"}]],\"cfg\":[1,2,4]," \
    "\"seed\":[9007199254740993],\"latent_image\":{\"width\":64,\"height\":64},"                   \
    "\"output\":{\"file\":\"o.h5\"}}"

static void items_of_lists_are_replaced_and_appended(void **state)
{
    (void)state;
    ks_job *job = load_job(LISTS, "cfg[1]=7");
    assert_true(job->cfgs == 3 && job->cfg[0] == 1 && job->cfg[1] == 7 && job->cfg[2] == 4);
    assert_int_equal(job->seed_list[0], UINT64_C(9007199254740993));
    ks_job_free(job);
    job = load_job(LISTS, "cfg[3]=8");
    assert_true(job->cfgs == 4 && job->cfg[3] == 8);
    ks_job_free(job);
    job = load_job(LISTS, "positive[1][1].strength=0.5");
    assert_true(job->positive[1].item[1].strength == 0.5);
    assert_string_equal(job->positive[1].item[1].text, "c");
    ks_job_free(job);
}

static void later_sets_see_earlier_ones(void **state)
{
    (void)state;
    char *path = write_job(LISTS);
    const char *sets[] = {"cfg=[5]", "cfg[1]=6", "seed={\"start\":3,\"count\":2}", "seed.start=4"};
    ks_error err = KS_ERROR_NONE;
    ks_job *job = ks_job_load(path, sets, 4, &err);
    assert_string_equal(err.text, "");
    assert_true(job->cfgs == 2 && job->cfg[1] == 6 && job->seed_start == 4);
    ks_job_free(job);
    unlink(path);
    free(path);
}

static void paths_that_lead_nowhere_are_refused(void **state)
{
    (void)state;
    static const char *const mistakes[][2] = {
        {"cfg[7]=3", "--set cfg[7]=3: cfg is shorter; the place behind its last item appends one"},
        {"cfg[x]=3", "--set cfg[x]=3: cfg has a place that is no number: write [0], [1], ..."},
        {"cfg[-1]=3", "--set cfg[-1]=3: cfg has a place that is no number: write [0], [1], ..."},
        {"cfg[1=3", "--set cfg[1=3: cfg has a place that is no number: write [0], [1], ..."},
        {"cfg[99999999999999999999]=3", "--set cfg[99999999999999999999]=3: cfg has a place that "
                                        "is no number: write [0], [1], ..."},
        {"model[0]=3", "--set model[0]=3: model is no list"},
        {"steps[0]=3", "--set steps[0]=3: steps is missing; set a whole list"},
        {"model.file=3", "--set model.file=3: model is no object with keys"},
        {"cfg.from=3", "--set cfg.from=3: cfg is no object with keys"},
        {"output..file=3", "--set output..file=3: output has an empty key; write PATH=VALUE, as in "
                           "cfg=7 or output.file=out.h5"},
        {".cfg=3", "--set .cfg=3: the job has an empty key; write PATH=VALUE, as in cfg=7 or "
                   "output.file=out.h5"},
        {"[0]=3", "--set [0]=3: the job is no list"},
        {"positive[1]text=3", "--set positive[1]text=3: positive[1] is followed by neither a key, "
                              "as in a.b, nor a place, as in a[0]"},
    };
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++)
        job_is_refused(LISTS, mistakes[i][0], mistakes[i][1]);
}

static void a_set_without_path_or_value_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"cfg", "", "=7"};
    for (size_t i = 0; i < 3; i++) {
        ks_error err = KS_ERROR_NONE;
        assert_null(try_job(SMALL_JOB, bad[i], &err));
        char *expected = ks_format("--set %s: give PATH=VALUE, as in cfg=7 or output.file=out.h5",
                                   bad[i]);
        assert_string_equal(err.text, expected);
        free(expected);
    }
}

static void a_path_of_endless_keys_is_refused(void **state)
{
    (void)state;
    enum { KEYS = 60000 };
    char *set = ks_calloc(2 * KEYS + 3, 1);
    for (int i = 0; i < KEYS; i++)
        memcpy(set + 2 * i, "a.", 2);
    memcpy(set + 2 * KEYS, "a=", 2);
    ks_error err = KS_ERROR_NONE;
    assert_null(try_job(SMALL_JOB, set, &err));
    assert_non_null(strstr(err.text, "the path is too long; give at most 64 keys and places"));
    free(set);
}

static void what_is_set_is_checked_as_if_it_stood_in_the_file(void **state)
{
    (void)state;
    small_job_is_refused("cgf=3", "unknown key \"cgf\"; did you mean \"cfg\"?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_value_is_json_where_it_can_be),
        cmocka_unit_test(a_value_is_a_text_where_it_is_no_json),
        cmocka_unit_test(members_are_replaced_and_made),
        cmocka_unit_test(the_output_may_be_named_by_a_set_alone),
        cmocka_unit_test(items_of_lists_are_replaced_and_appended),
        cmocka_unit_test(later_sets_see_earlier_ones),
        cmocka_unit_test(paths_that_lead_nowhere_are_refused),
        cmocka_unit_test(a_set_without_path_or_value_is_refused),
        cmocka_unit_test(a_path_of_endless_keys_is_refused),
        cmocka_unit_test(what_is_set_is_checked_as_if_it_stood_in_the_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
