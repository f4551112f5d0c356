/* The index space: order of the axes, seeds, sizes. */
#include "unit/job/job_file.h"

#include <time.h>

#define GRID                                                                                       \
    "{\"ksweep\": 1, \"model\": \"m\", \"positive\": [\"a\", \"b\"], \"negative\": [\"\", \"n\"]," \
    " \"latent_image\": [{\"width\": 64, \"height\": 64, \"batch_size\": 2},"                      \
    " {\"file\": \"l.latent\", \"batch_size\": 2}, {\"file\": \"k.latent\", \"batch_size\": 2}],"  \
    " \"denoise\": [1, 0.5], \"scheduler\": [\"karras\", \"normal\"],"                             \
    " \"sampler_name\": [\"euler\", \"heun\"], \"cfg\": [1, 2, 4], \"steps\": [10, 20],"           \
    " \"seed\": {\"start\": 7, \"count\": 3}, \"output\": {\"file\": \"o.h5\"}}"

static void axes_vary_in_the_documented_order(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    const uint64_t sizes[KS_AXES] = {2, 2, 3, 2, 2, 2, 3, 2, 3, 2};
    uint64_t stride = 1;
    for (int axis = KS_AXES - 1; axis >= 0; axis--) {
        assert_int_equal(ks_job_axis_size(job, (ks_axis)axis), sizes[axis]);
        uint64_t at[KS_AXES], expected[KS_AXES] = {0};
        expected[axis] = 1;
        ks_job_coordinates(job, stride, at);
        assert_memory_equal(at, expected, sizeof at);
        stride *= sizes[axis];
    }
    assert_int_equal(ks_job_samples(job), stride);
    ks_job_free(job);
}

static void a_sample_holds_the_values_at_its_coordinates(void **state)
{
    (void)state;
    ks_job *job = load_job(GRID, NULL);
    for (uint64_t i = 0; i < ks_job_samples(job); i++) {
        uint64_t at[KS_AXES];
        ks_sample s;
        ks_job_coordinates(job, i, at);
        ks_job_sample(job, i, &s);
        assert_int_equal(ks_job_index(job, at), i);
        assert_int_equal(s.index, i);
        assert_int_equal(s.seed, 7 + at[KS_AXIS_SEED]);
        assert_int_equal(s.steps, job->steps[at[KS_AXIS_STEPS]]);
        assert_true(s.cfg == job->cfg[at[KS_AXIS_CFG]]);
        assert_true(s.denoise == job->denoise[at[KS_AXIS_DENOISE]]);
        assert_int_equal(s.sampler, job->sampler[at[KS_AXIS_SAMPLER]]);
        assert_int_equal(s.scheduler, job->scheduler[at[KS_AXIS_SCHEDULER]]);
        assert_int_equal(s.positive, at[KS_AXIS_POSITIVE]);
        assert_int_equal(s.negative, at[KS_AXIS_NEGATIVE]);
        assert_int_equal(s.latent, at[KS_AXIS_LATENT]);
        assert_int_equal(s.batch, at[KS_AXIS_BATCH]);
    }
    ks_job_free(job);
}

static void axes_are_named_as_in_the_job_file(void **state)
{
    (void)state;
    const char *const names[KS_AXES] = {"positive", "negative", "latent_image", "denoise",
                                        "scheduler", "sampler_name", "cfg", "steps", "seed",
                                        "batch"};
    for (int a = 0; a < KS_AXES; a++)
        assert_string_equal(ks_axis_name((ks_axis)a), names[a]);
}

static void seeds_are(const char *seed, const char *control, int count, const uint64_t *expected)
{
    char *set = ks_format("seed=%s", seed), *both = ks_format("control_after_generate=%s", control);
    const char *sets[2] = {set, both};
    char *path = write_job(SMALL_JOB);
    ks_error err = KS_ERROR_NONE;
    ks_job *job = ks_job_load(path, sets, 2, &err);
    assert_string_equal(err.text, "");
    assert_non_null(job);
    assert_int_equal(job->seed_count, count);
    for (int k = 0; k < count; k++)
        assert_int_equal(ks_job_seed(job, (uint64_t)k), expected[k]);
    ks_job_free(job);
    unlink(path);
    free(path);
    free(set);
    free(both);
}

#define SEEDS(...) (const uint64_t[]){__VA_ARGS__}

static void seeds_up_to_2_64_minus_1_are_exact(void **state)
{
    (void)state;
    seeds_are("18446744073709551615", "fixed", 1, SEEDS(UINT64_MAX));
    seeds_are("\"18446744073709551615\"", "fixed", 1, SEEDS(UINT64_MAX));
    seeds_are("9007199254740993", "fixed", 1, SEEDS(9007199254740993));
    seeds_are("[18446744073709551614, \"9007199254740993\", 0]", "randomize", 3,
              SEEDS(UINT64_MAX - 1, 9007199254740993, 0));
}

static void control_after_generate_makes_the_seeds(void **state)
{
    (void)state;
    seeds_are("{\"start\":42,\"count\":3}", "fixed", 3, SEEDS(42, 42, 42));
    seeds_are("{\"start\":42,\"count\":3}", "increment", 3, SEEDS(42, 43, 44));
    seeds_are("{\"start\":42,\"count\":3}", "decrement", 3, SEEDS(42, 41, 40));
    seeds_are("{\"count\":2}", "increment", 2, SEEDS(0, 1));
}

static void increment_and_decrement_wrap(void **state)
{
    (void)state;
    seeds_are("{\"start\":18446744073709551614,\"count\":4}", "increment", 4,
              SEEDS(UINT64_MAX - 1, UINT64_MAX, 0, 1));
    seeds_are("{\"start\":1,\"count\":4}", "decrement", 4,
              SEEDS(1, 0, UINT64_MAX, UINT64_MAX - 1));
}

/* Reference: the first outputs of Vigna's splitmix64 for the states 0 and 1234567. */
static void randomize_is_splitmix64_from_the_start(void **state)
{
    (void)state;
    seeds_are("{\"start\":0,\"count\":4}", "randomize", 4,
              SEEDS(0, UINT64_C(0xE220A8397B1DCDAF), UINT64_C(0x6E789E6AA1B965F4),
                    UINT64_C(0x06C45D188009454F)));
    seeds_are("{\"start\":1234567,\"count\":4}", "randomize", 4,
              SEEDS(1234567, UINT64_C(6457827717110365317), UINT64_C(3203168211198807973),
                    UINT64_C(9817491932198370423)));
}

static void a_range_of_seeds_needs_no_list(void **state)
{
    (void)state;
    seeds_are("{\"from\":10,\"to\":40,\"step\":15}", "fixed", 3, SEEDS(10, 25, 40));
    seeds_are("{\"from\":5,\"to\":1,\"step\":-2}", "increment", 3, SEEDS(5, 3, 1));
    seeds_are("{\"from\":18446744073709551610,\"to\":\"18446744073709551615\",\"step\":5}", "fixed",
              2, SEEDS(UINT64_MAX - 5, UINT64_MAX));
    ks_job *job = small_job("seed={\"from\":0,\"to\":1000000000000000000,\"step\":1}");
    assert_int_equal(job->seed_count, UINT64_C(1000000000000000001));
    assert_null(job->seed_list);
    ks_job_free(job);
}

static void a_billion_samples_load_and_plan_at_once(void **state)
{
    (void)state;
    char *path = write_job(SMALL_JOB);
    const char *sets[] = {"seed={\"start\":1,\"count\":1000000}", "cfg={\"from\":1,\"to\":100,"
                          "\"step\":0.1}", "latent_image={\"width\":128,\"height\":128,"
                          "\"batch_size\":2}"};
    ks_error err = KS_ERROR_NONE;
    clock_t start = clock(); /* CPU time: other programs do not count */
    ks_job *job = ks_job_load(path, sets, 3, &err);
    assert_non_null(job);
    assert_int_equal(ks_job_samples(job), UINT64_C(1000000) * 991 * 2);
    ks_sample s;
    ks_job_sample(job, ks_job_samples(job) - 1, &s);
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    assert_true(s.seed == 1000000 && s.cfg == 100 && s.batch == 1);
    assert_true(seconds < 0.05);
    ks_job_free(job);
    unlink(path);
    free(path);
}

static void the_largest_sweep_is_2_63_minus_1(void **state)
{
    (void)state;
    ks_job *job = small_job("seed={\"start\":3,\"count\":9223372036854775807}");
    ks_sample s;
    assert_int_equal(ks_job_samples(job), INT64_MAX);
    ks_job_sample(job, INT64_MAX - 1, &s);
    assert_int_equal(s.seed, UINT64_C(3) + INT64_MAX - 1);
    ks_job_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(axes_vary_in_the_documented_order),
        cmocka_unit_test(a_sample_holds_the_values_at_its_coordinates),
        cmocka_unit_test(axes_are_named_as_in_the_job_file),
        cmocka_unit_test(seeds_up_to_2_64_minus_1_are_exact),
        cmocka_unit_test(control_after_generate_makes_the_seeds),
        cmocka_unit_test(increment_and_decrement_wrap),
        cmocka_unit_test(randomize_is_splitmix64_from_the_start),
        cmocka_unit_test(a_range_of_seeds_needs_no_list),
        cmocka_unit_test(a_billion_samples_load_and_plan_at_once),
        cmocka_unit_test(the_largest_sweep_is_2_63_minus_1),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
