/* "sweep": axes that walk together. */
#include "unit/job/job_file.h"

#define AXES                                                                                       \
    "{\"ksweep\": 1, \"model\": \"m\", \"positive\": [\"a\", \"b\", \"c\"],"                       \
    " \"negative\": [\"\", \"n\"], \"latent_image\": {\"width\": 64, \"height\": 64,"              \
    " \"batch_size\": 2}, \"denoise\": [1, 0.5], \"cfg\": [1, 2, 4], \"steps\": [10, 20],"         \
    " \"seed\": {\"start\": 7, \"count\": 3}, \"output\": {\"file\": \"o.h5\"}}"

static void check_every_sample(const ks_job *job, uint64_t samples)
{
    assert_int_equal(ks_job_samples(job), samples);
    for (uint64_t i = 0; i < samples; i++) {
        uint64_t at[KS_AXES];
        ks_sample s;
        ks_job_coordinates(job, i, at);
        ks_job_sample(job, i, &s);
        assert_int_equal(ks_job_index(job, at), i);
        for (int a = 0; a < KS_AXES; a++) {
            assert_true(at[a] < ks_job_axis_size(job, (ks_axis)a));
            assert_int_equal(at[a], at[ks_job_leader(job, (ks_axis)a)]);
        }
        assert_int_equal(s.positive, at[KS_AXIS_POSITIVE]);
        assert_int_equal(s.negative, at[KS_AXIS_NEGATIVE]);
        assert_int_equal(s.seed, 7 + at[KS_AXIS_SEED]);
        assert_int_equal(s.steps, job->steps[at[KS_AXIS_STEPS]]);
        assert_true(s.cfg == job->cfg[at[KS_AXIS_CFG]]);
        assert_true(s.denoise == job->denoise[at[KS_AXIS_DENOISE]]);
    }
}

static void axes_of_a_group_have_the_same_place(void **state)
{
    (void)state;
    ks_job *job = load_job(AXES, "sweep=[[\"positive\",\"seed\",\"cfg\"]]");
    check_every_sample(job, 3 * 2 * 2 * 2 * 2);
    assert_int_equal(ks_job_leader(job, KS_AXIS_SEED), KS_AXIS_POSITIVE);
    assert_int_equal(ks_job_leader(job, KS_AXIS_STEPS), KS_AXIS_STEPS);
    ks_job_free(job);
}

static void a_sweep_has_several_groups(void **state)
{
    (void)state;
    ks_job *job = load_job(AXES, "sweep=[[\"steps\",\"negative\"],[\"seed\",\"cfg\"],\"denoise\"]");
    check_every_sample(job, 3 * 2 * 2 * 3 * 2);
    ks_job_free(job);
}

static void a_group_stands_at_the_place_of_its_slowest_axis(void **state)
{
    (void)state;
    ks_job *job = load_job(AXES, "sweep=[\"steps\",[\"seed\",\"positive\"]]");
    ks_sample s;
    ks_job_sample(job, 2, &s); /* behind the batch, steps are the fastest now */
    assert_true(s.steps == 20 && s.seed == 7 && s.positive == 0);
    ks_job_sample(job, ks_job_samples(job) - 1, &s);
    assert_true(s.steps == 20 && s.seed == 9 && s.positive == 2);
    ks_job_sample(job, ks_job_samples(job) / 3, &s);
    assert_true(s.seed == 8 && s.positive == 1 && s.steps == 10);
    ks_job_free(job);
}

static void names_alone_change_nothing(void **state)
{
    (void)state;
    ks_job *plain = load_job(AXES, NULL);
    ks_job *named = load_job(AXES, "sweep=[\"seed\",\"cfg\",[\"positive\"]]");
    check_every_sample(named, ks_job_samples(plain));
    for (uint64_t i = 0; i < ks_job_samples(plain); i++) {
        uint64_t a[KS_AXES], b[KS_AXES];
        ks_job_coordinates(plain, i, a);
        ks_job_coordinates(named, i, b);
        assert_memory_equal(a, b, sizeof a);
    }
    ks_job_free(plain);
    ks_job_free(named);
}

static void zipped_axes_count_once_against_the_limit(void **state)
{
    (void)state;
    char *path = write_job(SMALL_JOB);
    const char *sets[] = {"seed={\"start\":1,\"count\":3000000000000000000}", "cfg=[1,2,3]",
                          "steps=[1,2,3]", "sweep=[[\"cfg\",\"steps\"]]"};
    ks_error err = KS_ERROR_NONE;
    assert_null(ks_job_load(path, sets, 3, &err));
    ks_job *job = ks_job_load(path, sets, 4, &err);
    assert_non_null(job);
    assert_int_equal(ks_job_samples(job), UINT64_C(9000000000000000000));
    ks_job_free(job);
    unlink(path);
    free(path);
}

static void an_empty_list_is_the_grid(void **state)
{
    (void)state;
    ks_job *grid = load_job(AXES, NULL), *job = load_job(AXES, "sweep=[]");
    assert_int_equal(ks_job_samples(job), ks_job_samples(grid));
    for (int axis = 0; axis < KS_AXES; axis++)
        assert_int_equal(ks_job_leader(job, (ks_axis)axis), axis);
    ks_job_free(grid);
    ks_job_free(job);
}

static void mistakes_are_told(void **state)
{
    (void)state;
    job_is_refused(AXES, "sweep=[[\"positive\",\"negative\"]]",
                   "sweep[0]: positive has 3 values and negative has 2; axes that walk together "
                   "need equally many");
    job_is_refused(AXES, "sweep=[\"cfg\",[\"cfg\",\"seed\"]]",
                   "sweep[1][0]: names cfg a second time; an axis walks once");
    job_is_refused(AXES, "sweep=[[\"seed\",\"seed\"]]",
                   "sweep[0][1]: names seed a second time; an axis walks once");
    job_is_refused(AXES, "sweep=[\"seeds\"]",
                   "sweep[0]: no axis is called \"seeds\"; did you mean \"seed\"?");
    job_is_refused(AXES, "sweep=[\"batch\"]",
                   "sweep[0]: no axis is called \"batch\"; the axes are positive, negative, "
                   "latent_image, denoise, scheduler, sampler_name, cfg, steps and seed");
    job_is_refused(AXES, "sweep=[[]]",
                   "sweep[0]: is an empty list; give the name of an axis, or a list of names of "
                   "axes that walk together");
    job_is_refused(AXES, "sweep=[7]",
                   "sweep[0]: 7 does not fit; give the name of an axis, or a list of names of axes "
                   "that walk together");
    job_is_refused(AXES, "sweep=cfg",
                   "sweep: \"cfg\" does not fit; give a list, as in [[\"positive\", \"seed\"], "
                   "\"cfg\"]");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(axes_of_a_group_have_the_same_place),
        cmocka_unit_test(a_sweep_has_several_groups),
        cmocka_unit_test(a_group_stands_at_the_place_of_its_slowest_axis),
        cmocka_unit_test(names_alone_change_nothing),
        cmocka_unit_test(zipped_axes_count_once_against_the_limit),
        cmocka_unit_test(an_empty_list_is_the_grid),
        cmocka_unit_test(mistakes_are_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
