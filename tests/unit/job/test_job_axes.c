/* Values, lists, ranges and defaults of the axes. */
#include "unit/job/job_file.h"

#include "sampling/sampler.h"
#include "sampling/schedule.h"

static void absent_keys_have_comfyuis_defaults(void **state)
{
    (void)state;
    ks_job *job = small_job(NULL);
    assert_int_equal(job->steps_count, 1);
    assert_int_equal(job->steps[0], 20);
    assert_true(job->cfg[0] == 8.0 && job->denoise[0] == 1.0);
    assert_string_equal(ks_sampler_at(job->sampler[0])->name, "euler");
    assert_string_equal(ks_scheduler_name(job->scheduler[0]), "normal");
    assert_int_equal(job->negatives, 1);
    assert_string_equal(job->negative[0].item[0].text, "");
    assert_int_equal(job->seed_start, 0);
    assert_int_equal(job->seed_count, 1);
    assert_int_equal(job->batch, 1);
    assert_string_equal(job->noise_device, "cuda");
    assert_int_equal(job->noise.kind, KS_NOISE_CUDA);
    assert_int_equal(job->noise.multiprocessors, 132);
    assert_string_equal(job->precision, "auto");
    assert_string_equal(job->prediction, "auto");
    assert_string_equal(job->device, "auto");
    assert_string_equal(job->collect, "auto");
    assert_false(job->zsnr || job->zsnr_given || job->images || job->latents_float16);
    assert_true(job->tensor == 1 && job->rows == 1 && job->batch_rows == 0);
    ks_job_free(job);
}

static void paths_are_relative_to_the_job_file(void **state)
{
    (void)state;
    ks_job *job = small_job("positive={\"file\":\"sub/c.safetensors\",\"cond\":\"a\"}");
    const char *slash = strrchr(job->path, '/');
    size_t folder = (size_t)(slash - job->path) + 1;
    assert_int_equal(strncmp(job->model, job->path, folder), 0);
    assert_string_equal(job->model + folder, "m.safetensors");
    assert_string_equal(job->output + folder, "out.h5");
    assert_string_equal(job->positive[0].item[0].file + folder, "sub/c.safetensors");
    ks_job_free(job);
    job = small_job("model=/models/m.safetensors");
    assert_string_equal(job->model, "/models/m.safetensors");
    ks_job_free(job);
}

static void a_list_keeps_its_order_and_its_duplicates(void **state)
{
    (void)state;
    ks_job *job = small_job("cfg=[7, 2.5, 7, -0.0]");
    assert_int_equal(job->cfgs, 4);
    assert_true(job->cfg[0] == 7 && job->cfg[1] == 2.5 && job->cfg[2] == 7 && job->cfg[3] == 0);
    assert_false(__builtin_signbit(job->cfg[3]));
    ks_job_free(job);
    job = small_job("steps=[30,10,10]");
    assert_int_equal(job->steps_count, 3);
    assert_true(job->steps[0] == 30 && job->steps[1] == 10 && job->steps[2] == 10);
    ks_job_free(job);
    job = small_job("sampler_name=[\"dpmpp_2m\",\"euler\"]");
    assert_int_equal(job->samplers, 2);
    assert_int_equal(job->sampler[0], ks_sampler_find("dpmpp_2m"));
    assert_int_equal(job->sampler[1], ks_sampler_find("euler"));
    ks_job_free(job);
    job = small_job("scheduler=[\"karras\",\"simple\"]");
    assert_int_equal(job->schedulers, 2);
    assert_int_equal(job->scheduler[0], ks_scheduler_find("karras"));
    ks_job_free(job);
}

/* Every value must be the very double that the same decimal gives. */
static void cfg_range_gives(const char *range, int count, const char *const *decimals)
{
    ks_job *job = small_job(range);
    assert_int_equal(job->cfgs, count);
    for (int i = 0; i < count; i++)
        assert_true(job->cfg[i] == strtod(decimals[i], NULL));
    ks_job_free(job);
}

static void a_range_steps_in_exact_decimals_and_reaches_its_end(void **state)
{
    (void)state;
    cfg_range_gives("cfg={\"from\":0,\"to\":1,\"step\":0.1}", 11,
                    (const char *[]){"0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8",
                                     "0.9", "1"});
    cfg_range_gives("cfg={\"from\":1.1,\"to\":1.4,\"step\":0.1}", 4,
                    (const char *[]){"1.1", "1.2", "1.3", "1.4"});
    cfg_range_gives("cfg={\"from\":-0.5,\"to\":0.25,\"step\":0.25}", 4,
                    (const char *[]){"-0.5", "-0.25", "0", "0.25"});
    cfg_range_gives("cfg={\"from\":0.001,\"to\":0.003,\"step\":1e-3}", 3,
                    (const char *[]){"0.001", "0.002", "0.003"});
}

static void a_range_descends_by_a_negative_step(void **state)
{
    (void)state;
    cfg_range_gives("cfg={\"from\":7,\"to\":6.7,\"step\":-0.1}", 4,
                    (const char *[]){"7", "6.9", "6.8", "6.7"});
    ks_job *job = small_job("steps={\"from\":50,\"to\":10,\"step\":-20}");
    assert_int_equal(job->steps_count, 3);
    assert_true(job->steps[0] == 50 && job->steps[1] == 30 && job->steps[2] == 10);
    ks_job_free(job);
}

static void a_range_from_a_value_to_itself_is_that_value(void **state)
{
    (void)state;
    cfg_range_gives("cfg={\"from\":7.5,\"to\":7.5,\"step\":0.5}", 1, (const char *[]){"7.5"});
    ks_job *job = small_job("denoise={\"from\":0.5,\"to\":0.5,\"step\":-0.1}");
    assert_true(job->denoises == 1 && job->denoise[0] == 0.5);
    ks_job_free(job);
}

static void a_range_may_have_a_million_values(void **state)
{
    (void)state;
    ks_job *job = small_job("cfg={\"from\":0.0001,\"to\":100,\"step\":0.0001}");
    assert_int_equal(job->cfgs, 1000000);
    assert_true(job->cfg[333332] == 33.3333 && job->cfg[999999] == 100);
    ks_job_free(job);
}

static void limits_of_the_widgets_are_inside(void **state)
{
    (void)state;
    ks_job_free(small_job("steps=[1,10000]"));
    ks_job_free(small_job("cfg=[-1000,1000,0]"));
    ks_job_free(small_job("denoise=[0,1,0.00001]"));
}

static void a_schema_reference_is_no_setting(void **state)
{
    (void)state;
    ks_job_free(small_job("$schema=job.schema.json"));
}

static void a_recorded_text_parses_as_its_job_file_did(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_job *job = small_job("cfg=[1,2.5]");
    ks_job *again = ks_job_parse(job->path, job->text, &err);
    assert_non_null(again);
    assert_string_equal(again->text, job->text);
    assert_string_equal(again->model, job->model);
    assert_true(again->cfgs == 2 && again->cfg[1] == 2.5);
    ks_job_free(again);
    ks_job_free(job);
    assert_null(ks_job_parse("old.json", "{\"ksweep\": 3}", &err));
    assert_string_equal(err.text, "old.json: ksweep: 3 does not fit; give \"ksweep\": 1, the "
                                  "version of the format that this program reads");
}

static void settings_are_read(void **state)
{
    (void)state;
    ks_job *job = small_job("parallel={\"tensor\":2,\"rows\":4,\"batch_rows\":16}");
    assert_int_equal(job->batch_rows, 16);
    assert_int_equal(job->tensor, 2);
    assert_int_equal(job->rows, 4);
    ks_job_free(job);
    job = small_job("output={\"file\":\"o.h5\",\"latents\":\"float16\",\"images\":true,"
                    "\"collect\":\"virtual\"}");
    assert_true(job->latents_float16 && job->images);
    assert_string_equal(job->collect, "virtual");
    ks_job_free(job);
    job = small_job("noise_device=cuda:108");
    assert_int_equal(job->noise.multiprocessors, 108);
    assert_string_equal(job->noise_device, "cuda:108");
    ks_job_free(job);
    job = small_job("noise_device=cpu");
    assert_int_equal(job->noise.kind, KS_NOISE_CPU);
    ks_job_free(job);
    job = small_job("zsnr=false");
    assert_true(job->zsnr_given && !job->zsnr);
    ks_job_free(job);
    job = small_job("prediction=v");
    assert_string_equal(job->prediction, "v");
    ks_job_free(job);
    job = small_job("precision=fp32");
    assert_string_equal(job->precision, "fp32");
    ks_job_free(job);
    job = small_job("device=cpu");
    assert_string_equal(job->device, "cpu");
    ks_job_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_keys_have_comfyuis_defaults),
        cmocka_unit_test(paths_are_relative_to_the_job_file),
        cmocka_unit_test(a_list_keeps_its_order_and_its_duplicates),
        cmocka_unit_test(a_range_steps_in_exact_decimals_and_reaches_its_end),
        cmocka_unit_test(a_range_descends_by_a_negative_step),
        cmocka_unit_test(a_range_from_a_value_to_itself_is_that_value),
        cmocka_unit_test(a_range_may_have_a_million_values),
        cmocka_unit_test(limits_of_the_widgets_are_inside),
        cmocka_unit_test(a_schema_reference_is_no_setting),
        cmocka_unit_test(a_recorded_text_parses_as_its_job_file_did),
        cmocka_unit_test(settings_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
