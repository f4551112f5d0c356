/* Rows of a job that has grown since are found by their values. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cluster/guess.h"

static ks_job *job_of(const char *axes)
{
    ks_error err = KS_ERROR_NONE;
    char *text = ks_format("{\"ksweep\":1,\"model\":\"m\",\"latent_image\":{\"width\":64,\"height\":64,\"batch_size\":2},%s,"
                           "\"output\":{\"file\":\"o.h5\"}}", axes);
    ks_job *job = ks_job_parse("job.json", text, &err);
    if (!job)
        fail_msg("%s", err.text);
    free(text);
    return job;
}

static ks_row row_of(const ks_job *job, uint64_t index)
{
    ks_sample s;
    ks_job_sample(job, index, &s);
    return (ks_row){.index = index, .seed = s.seed, .steps = (uint32_t)s.steps, .cfg = s.cfg, .denoise = s.denoise,
                    .sampler = s.sampler, .scheduler = s.scheduler, .positive = (uint32_t)s.positive,
                    .negative = (uint32_t)s.negative, .latent_image = (uint32_t)s.latent, .batch = (uint32_t)s.batch};
}

/* Every row of the old job is where the new one has the same sample. */
static void assert_found(const char *old_axes, const char *new_axes)
{
    ks_job *old = job_of(old_axes), *new = job_of(new_axes);
    for (uint64_t i = 0; i < ks_job_samples(old); i++) {
        ks_row row = row_of(old, i);
        int64_t index = ks_guess_index(new, &row);
        assert_in_range(index, 0, ks_job_samples(new) - 1);
        ks_row same = row_of(new, (uint64_t)index);
        same.index = i;
        assert_memory_equal(&same, &row, sizeof row);
    }
    ks_job_free(old);
    ks_job_free(new);
}

static void rows_of_a_grown_job_are_found(void **state)
{
    (void)state;
    assert_found("\"positive\":\"a\",\"seed\":{\"start\":5,\"count\":9},\"cfg\":[1,4],\"steps\":[20,30]",
                 "\"positive\":[\"a\",\"b\"],\"seed\":{\"start\":2,\"count\":90},\"cfg\":[0.5,1,2,4],\"steps\":{\"from\":10,"
                 "\"to\":40,\"step\":5},\"sampler_name\":[\"heun\",\"euler\"],\"scheduler\":[\"karras\",\"normal\"]");
    assert_found("\"positive\":\"a\",\"seed\":[7,3,18446744073709551615]",
                 "\"positive\":\"a\",\"seed\":[18446744073709551615,3,1,7]");
    assert_found("\"positive\":\"a\",\"seed\":{\"start\":3,\"count\":6},\"control_after_generate\":\"decrement\"",
                 "\"positive\":\"a\",\"seed\":{\"start\":4,\"count\":9},\"control_after_generate\":\"decrement\"");
    assert_found("\"positive\":\"a\",\"seed\":{\"start\":3,\"count\":6},\"control_after_generate\":\"randomize\"",
                 "\"positive\":\"a\",\"seed\":{\"start\":3,\"count\":60},\"control_after_generate\":\"randomize\"");
}

static void values_that_are_gone_are_not_found(void **state)
{
    (void)state;
    ks_job *job = job_of("\"positive\":\"a\",\"seed\":{\"start\":5,\"count\":9},\"cfg\":[1,4]");
    const ks_row good = row_of(job, 3);
    ks_row row[] = {good, good, good, good, good, good};
    row[0].seed = 4;
    row[1].seed = 14;
    row[2].cfg = 2;
    row[3].positive = 1;
    row[4].batch = 2;
    row[5].sampler = -1;
    assert_int_equal(ks_guess_index(job, &good), 3);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        assert_int_equal(ks_guess_index(job, &row[i]), -1);
    ks_job_free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_a_grown_job_are_found),
        cmocka_unit_test(values_that_are_gone_are_not_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
