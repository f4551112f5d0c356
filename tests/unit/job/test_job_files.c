/* What the repository ships: the schema, the demo and the examples. */
#include "unit/job/job_file.h"

#include "base/json.h"
#include "sampling/sampler.h"
#include "sampling/schedule.h"

/* The schema's list of names must be the table: as many, and each of them known. */
static void names_are_the_table(const char *definition, int (*find)(const char *), int count)
{
    ks_error err = KS_ERROR_NONE;
    ks_json_doc *doc = ks_json_read(TEST_ROOT "/jobs/job.schema.json", &err);
    assert_string_equal(err.text, "");
    ks_json definitions = ks_json_get(ks_json_root(doc), "$defs");
    ks_json names = ks_json_get(ks_json_get(definitions, definition), "enum");
    for (int i = 0; i < ks_json_size(names); i++) {
        const char *name;
        assert_int_equal(ks_json_string(ks_json_at(names, i), &name, &err), 0);
        if (find(name) < 0)
            fail_msg("the schema names %s, which no table has", name);
    }
    assert_int_equal(ks_json_size(names), count);
    ks_json_free(doc);
}

static void the_schema_names_exactly_the_samplers_there_are(void **state)
{
    (void)state;
    names_are_the_table("sampler_name", ks_sampler_find, ks_sampler_count());
}

static void the_schema_names_exactly_the_schedulers_there_are(void **state)
{
    (void)state;
    names_are_the_table("scheduler", ks_scheduler_find, ks_scheduler_count());
}

static ks_job *shipped_job(const char *name, uint64_t samples)
{
    ks_error err = KS_ERROR_NONE;
    char *path = ks_format(TEST_ROOT "/jobs/%s", name);
    ks_job *job = ks_job_load(path, NULL, 0, &err);
    if (!job)
        fail_msg("%s", err.text);
    assert_int_equal(ks_job_samples(job), samples);
    free(path);
    return job;
}

static void the_demo_is_24_pictures(void **state)
{
    (void)state;
    ks_job *job = shipped_job("demo.json", 24);
    assert_true(job->images);
    assert_string_equal(job->model, TEST_ROOT "/jobs/demo/shapes-fp16.safetensors");
    assert_int_equal(access(job->model, R_OK), 0);
    assert_string_equal(job->output, TEST_ROOT "/jobs/../out/demo.h5");
    ks_job_free(job);
}

static void the_examples_load(void **state)
{
    (void)state;
    ks_job *job = shipped_job("examples/seed-sweep.json", 1000);
    assert_int_equal(job->control, KS_RANDOMIZE);
    ks_job_free(job);
    job = shipped_job("examples/cfg-grid-50x50.json", 2500);
    assert_true(job->cfgs == 50 && job->cfg[0] == 0.2 && job->cfg[2] == 0.6 && job->cfg[49] == 10);
    ks_job_free(job);
    job = shipped_job("examples/conditioning-file.json", 12);
    assert_int_equal(job->positive[1].count, 2);
    assert_int_equal(job->seed_list[1], UINT64_MAX);
    ks_job_free(job);
    job = shipped_job("examples/img2img.json", 7);
    assert_true(job->denoise[0] == 0.3 && job->denoise[3] == 0.6 && job->denoise[6] == 0.9);
    ks_job_free(job);
    job = shipped_job("examples/regions.json", 6);
    assert_true(job->positive[0].item[1].region->area[3] == 112);
    assert_true(job->positive[1].item[0].region->shares);
    ks_job_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_schema_names_exactly_the_samplers_there_are),
        cmocka_unit_test(the_schema_names_exactly_the_schedulers_there_are),
        cmocka_unit_test(the_demo_is_24_pictures),
        cmocka_unit_test(the_examples_load),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
