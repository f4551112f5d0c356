/* Texts that are encoded ahead of need: the same conditionings, whether they have been waited for or are asked for early. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "cluster/load.h"
#include "cluster/renderer.h"

enum { POINTS = 24, LATENT = 4 * 8 * 8 };

/* A run over the points of a job with many prompts. */
typedef struct many {
    ks_setup setup;
    ks_ops *ops;
    uint64_t next;
    int done;
    float latent[POINTS][LATENT];
} many;

static int next(void *self, uint64_t *point)
{
    many *m = self;
    *point = m->next;
    return m->next++ < POINTS;
}

static int peek(void *self, uint64_t k, uint64_t *point)
{
    many *m = self;
    *point = m->next + k;
    return *point < POINTS;
}

static int done(void *self, const ks_rendered *result, ks_error *err)
{
    many *m = self;
    (void)err;
    assert_null(result->error);
    memcpy(m->latent[result->point], result->latent, sizeof m->latent[0]);
    m->done++;
    return 0;
}

static int fences;

static uint64_t fence(ks_ops *ops)
{
    (void)ops;
    return (uint64_t)fences++;
}

static int wait_for(ks_ops *ops, uint64_t number, ks_error *err)
{
    (void)number;
    return ops->sync(ops, err);
}

/* Renders all points; ahead: as on a device that works while the host goes on. */
static many *render(bool ahead)
{
    static const char prompts[] = "positive=[\"a red circle\",\"a (blue:1.3) star\",\"a green square\",\"a red circle\",\"a ring\","
                                  "\"two hearts\",\"a cross\",\"a white diamond\",\"a black star\",\"an orange ring\","
                                  "\"a purple heart\",\"a yellow cross\"]";
    const char *sets[] = {prompts, "seed.count=2", "cfg=[3]", "sampler_name=euler", "steps=2", "latent_image.width=64",
                          "latent_image.height=64", "output.images=false"};
    ks_job_source source = {.path = TEST_ROOT "/jobs/demo.json", .sets = sets, .set_count = sizeof sets / sizeof *sets};
    ks_error err = KS_ERROR_NONE;
    many *m = calloc(1, sizeof *m);
    assert_non_null(m);
    ks_job *job = ks_job_from_source(&source, &err);
    m->ops = ks_ops_cpu(1, &err);
    if (!job || !m->ops || ks_setup_open(&m->setup, job, &err))
        fail_msg("%s", err.text);
    assert_int_equal(ks_job_samples(job), POINTS);
    if (ahead) {
        m->ops->fence = fence;
        m->ops->wait = wait_for;
    }
    ks_renderer *r = ks_renderer_new(&m->setup, m->ops, NULL, false, &err);
    ks_render_calls calls = {.self = m, .next = next, .peek = peek, .done = done};
    if (!r || ks_renderer_plan(r, 4, &err) || ks_renderer_run(r, &calls, &err))
        fail_msg("%s", err.text);
    ks_renderer_free(r);
    ks_setup_close(&m->setup);
    m->ops->free(m->ops);
    assert_int_equal(m->done, POINTS);
    return m;
}

static void prompts_encoded_ahead_give_the_same_bits(void **state)
{
    (void)state;
    many *plain = render(false), *ahead = render(true);
    assert_true(fences > 0);
    assert_memory_equal(plain->latent, ahead->latent, sizeof plain->latent);
    free(plain);
    free(ahead);
}

/* A value's texts are found once they have been settled, and no sooner does anything else change. */
static void a_conditioning_asked_for_early_is_waited_for(void **state)
{
    (void)state;
    ks_job_source source = {.path = TEST_ROOT "/jobs/demo.json"};
    ks_error err = KS_ERROR_NONE;
    ks_setup setup = {0};
    ks_job *job = ks_job_from_source(&source, &err);
    ks_ops *ops = ks_ops_cpu(1, &err);
    if (!job || !ops || ks_setup_open(&setup, job, &err))
        fail_msg("%s", err.text);
    ks_model *model = ks_model_load(setup.file, &setup.config, ops, NULL, KS_LOAD_TEXT, setup.tokenizer, &err);
    assert_non_null(model);
    ks_guidance early, late, again;
    ks_conditions *c = setup.conditions;
    assert_int_equal(ks_conditions_encode_ahead(c, model, &job->positive[0], &err), 0);
    assert_int_equal(ks_conditions_encode_ahead(c, model, &job->positive[0], &err), 0);
    assert_int_equal(ks_conditions_encode_ahead(c, model, &job->positive[1], &err), 0);
    assert_true(ks_conditions_on_their_way(c));
    assert_int_equal(ks_conditions_take(c, model, &job->positive[1], &early, &err), 0);
    assert_false(ks_conditions_on_their_way(c));
    assert_int_equal(ks_conditions_encode_ahead(c, model, &job->positive[1], &err), 0);
    assert_false(ks_conditions_on_their_way(c));
    assert_int_equal(ks_conditions_take(c, model, &job->positive[0], &late, &err), 0);
    assert_int_equal(ks_conditions_take(c, model, &job->positive[0], &again, &err), 0);
    assert_ptr_equal(late.cond, again.cond);
    assert_true(early.cond != late.cond);
    ks_conditions_give(c, &early, 1);
    ks_conditions_give(c, &late, 1);
    ks_conditions_give(c, &again, 1);
    assert_int_equal(ks_conditions_encode_ahead(c, model, &job->positive[2], &err), 0); /* never settled */
    ks_conditions_free(c);
    setup.conditions = NULL;
    ks_model_free(model);
    ks_setup_close(&setup);
    ops->free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_encoded_ahead_give_the_same_bits),
        cmocka_unit_test(a_conditioning_asked_for_early_is_waited_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
