/* The lane engine on a toy network in host memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>

#include "base/file.h"
#include "support/host_ops.h"
#include "unit/sampling/toy_network.h"

enum { SIDE = 4, ITEM = 4 * SIDE * SIDE, MAX_BATCH = 4, MAX_CALLS = 160 };

/* Calls for one run of the engine and what became of them. */
typedef struct job {
    ks_call call[MAX_CALLS];
    ks_guidance positive[MAX_CALLS][3], negative[MAX_CALLS][3];
    float result[MAX_CALLS][MAX_BATCH * ITEM];
    int64_t nfe[MAX_CALLS];
    char error[MAX_CALLS][KS_ERROR_TEXT];
    int calls, started, ended;
    toy_network network;
    int stop_after_polls, polls; /* 0: never */
    int fail_next, fail_done;    /* the call at which the callback fails, counted from 1 */
    int calls_at_end[MAX_CALLS]; /* network calls when the result was told */
} job;

static ks_model_sampling eps, velocity;
static const struct ks_cond cat = {.mean = 1}, dog = {.mean = -2}, nothing = {.mean = 0},
                            broken = {.broken = true};

static int init_models(void **state)
{
    (void)state;
    ks_model_sampling_init(&eps, KS_PREDICT_EPS, false, 0.00085, 0.012);
    ks_model_sampling_init(&velocity, KS_PREDICT_V, false, 0.00085, 0.012);
    return 0;
}

static job *job_new(void)
{
    job *j = ks_calloc(1, sizeof *j);
    j->network.floats = ITEM;
    return j;
}

/* Adds a call with cfg 3, one positive and one negative conditioning; free_job frees its sigmas. */
static ks_call *add_call(job *j, const char *sampler, int steps, uint64_t seed)
{
    int k = j->calls++;
    assert_true(k < MAX_CALLS);
    const ks_sampler *s = toy_sampler(sampler);
    ks_error err = KS_ERROR_NONE;
    float *sigmas;
    ks_call *c = &j->call[k];
    *c = (ks_call){.sampler = s,
                   .model_sampling = &eps,
                   .cfg = 3,
                   .seed = seed,
                   .batch = 1,
                   .channels = 4,
                   .height = SIDE,
                   .width = SIDE,
                   .latent_scale = 0.18215,
                   .add_noise = true,
                   .noise_device = {.kind = KS_NOISE_CPU},
                   .positives = 1,
                   .negatives = 1,
                   .positive = j->positive[k],
                   .negative = j->negative[k]};
    if (ks_schedule(&eps, ks_scheduler_find("karras"), steps, 1, s->discard_penultimate, &sigmas,
                    &c->count, &err))
        fail_msg("%s", err.text);
    c->sigmas = sigmas;
    j->positive[k][0] = toy_guidance(&cat);
    j->negative[k][0] = toy_guidance(&nothing);
    return c;
}

static void free_job(job *j)
{
    for (int k = 0; k < j->calls; k++)
        free((void *)(uintptr_t)j->call[k].sigmas);
    free(j);
}

static int next(void *self, ks_call *call, ks_error *err)
{
    job *j = self;
    if (j->fail_next && j->started + 1 == j->fail_next)
        return ks_error_set(err, "next fails");
    if (j->started == j->calls)
        return 0;
    *call = j->call[j->started];
    call->tag = &j->call[j->started++];
    return 1;
}

static int done(void *self, const ks_result *result, ks_error *err)
{
    job *j = self;
    ptrdiff_t k = (ks_call *)result->tag - j->call;
    if (++j->ended == j->fail_done)
        return ks_error_set(err, "done fails");
    j->nfe[k] = result->nfe;
    j->calls_at_end[k] = j->network.calls;
    if (result->error)
        memcpy(j->error[k], result->error, strlen(result->error) + 1);
    else
        memcpy(j->result[k], result->latent, (size_t)j->call[k].batch * ITEM * sizeof(float));
    return 0;
}

static int network(void *self, const ks_net_row *rows, int n, ks_error *err)
{
    return toy_rows(&((job *)self)->network, rows, n, err);
}

static int poll_job(void *self, bool idle, bool *finished, ks_error *err)
{
    job *j = self;
    (void)err;
    *finished = idle && j->started == j->calls;
    return ++j->polls == j->stop_after_polls;
}

static ks_engine_calls calls_of(job *j)
{
    return (ks_engine_calls){
        .self = j, .next = next, .done = done, .network = network, .poll = poll_job};
}

/* Runs all calls on a device, which it frees, and checks that nothing of the device's memory is lost. */
static ks_engine_stats run_on(ks_ops *ops, job *j, int rows, size_t share_bytes)
{
    ks_error err = KS_ERROR_NONE;
    ks_engine *engine = ks_engine_new(ops, rows, share_bytes, &err);
    ks_engine_calls calls = calls_of(j);
    if (ks_engine_run(engine, &calls, &err) != 0)
        fail_msg("%s", err.text);
    ks_engine_stats stats;
    ks_engine_stats_get(engine, &stats);
    ks_engine_free(engine);
    assert_int_equal(host_ops_live(ops), 0);
    ops->free(ops);
    assert_int_equal(j->ended, j->calls);
    return stats;
}

static ks_engine_stats run(job *j, int rows, size_t share_bytes)
{
    return run_on(host_ops_new(), j, rows, share_bytes);
}

static bool same_bits(const job *a, int k, const job *b, int l)
{
    return memcmp(a->result[k], b->result[l], (size_t)a->call[k].batch * ITEM * sizeof(float)) == 0;
}

/* Every sampler, or only the one given (-1: all), each with its own steps, cfg, seed and batch. */
static void add_mixed_calls(job *j, int only)
{
    for (int k = 0; k < ks_sampler_count(); k++) {
        if (only >= 0 && only != k)
            continue;
        ks_call *c = add_call(j, ks_sampler_at(k)->name, 3 + k % 7, 100 + (uint64_t)k % 5);
        c->cfg = (double[]){1, 2.5, 7, 0}[k % 4];
        c->batch = 1 + k % 3;
        c->model_sampling = k % 5 == 4 ? &velocity : &eps;
        j->positive[j->calls - 1][0] = toy_guidance(k % 2 ? &cat : &dog);
    }
}

static void mixed_lanes_have_the_bits_of_each_lane_alone(void **state)
{
    (void)state;
    job *together = job_new();
    add_mixed_calls(together, -1);
    run(together, 7, 1 << 20);
    for (int k = 0; k < together->calls; k++) {
        job *alone = job_new();
        add_mixed_calls(alone, k);
        run(alone, 1, 0);
        if (!same_bits(together, k, alone, 0))
            fail_msg("%s differs alone", together->call[k].sampler->name);
        assert_int_equal(together->nfe[k], alone->nfe[0]);
        free_job(alone);
    }
    free_job(together);
}

static void first_calls_are_shared_and_no_bit_changes(void **state)
{
    (void)state;
    job *shared = job_new(), *single = job_new(), *tight = job_new();
    job *all[] = {shared, single, tight};
    static const char *const samplers[] = {"euler",           "dpmpp_2m", "heun",
                                           "euler_ancestral", "lms",      "uni_pc"};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 12; k++)
            add_call(all[i], samplers[k % 6], 6, 5)->cfg = 2 + k;
    ks_engine_stats with = run(shared, 5, 1 << 20), without = run(single, 5, 0);
    ks_engine_stats little = run(tight, 5, 2 * ITEM * sizeof(float));
    for (int k = 0; k < 12; k++) {
        assert_true(same_bits(shared, k, single, k));
        assert_true(same_bits(tight, k, single, k));
    }
    assert_int_equal(without.rows_saved, 0);
    assert_int_equal(with.rows_saved, 22); /* 12 calls of two rows, two of them computed */
    assert_int_equal(with.rows + with.rows_saved, without.rows);
    assert_true(little.rows_saved > 0);
    for (int i = 0; i < 3; i++)
        free_job(all[i]);
}

static void only_equal_beginnings_are_shared(void **state)
{
    (void)state;
    static float latent[ITEM] = {1};
    job *j = job_new();
    add_call(j, "euler", 6, 5);
    add_call(j, "euler", 6, 6);                    /* another seed */
    add_call(j, "euler", 6, 5)->latent = latent;   /* another latent */
    add_call(j, "euler", 6, 5)->add_noise = false; /* no noise */
    add_call(j, "euler", 6, 5)->batch = 2;         /* joint noise of two */
    ks_engine_stats stats = run(j, 4, 1 << 20);
    assert_int_equal(stats.rows_saved, 0);
    free_job(j);
    j = job_new();
    add_call(j, "euler", 6, 5);
    add_call(j, "euler", 6, 5);
    j->positive[1][0] = toy_guidance(&dog); /* shares the negative's row only */
    stats = run(j, 4, 1 << 20);
    assert_int_equal(stats.rows_saved, 1);
    free_job(j);
}

static void cfg_of_one_costs_one_row(void **state)
{
    (void)state;
    static const struct {
        double cfg;
        int rows;
    } cases[] = {{1, 5}, {1 + 1e-10, 5}, {1.001, 10}, {3, 10}, {0, 5}};
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        job *j = job_new();
        add_call(j, "euler", 5, 1)->cfg = cases[k].cfg;
        assert_int_equal(run(j, 4, 0).rows, cases[k].rows);
        assert_int_equal(j->nfe[0], 5);
        free_job(j);
    }
    job *j = job_new();
    add_call(j, "euler_cfg_pp", 5, 1)->cfg = 1;
    assert_int_equal(run(j, 4, 0).rows, 10);
    free_job(j);
}

/* D of the toy network at the start of a one-step run, in the result's units. */
static double first_estimate(const ks_call *c, const struct ks_cond *cond, const float *noise,
                             int i)
{
    double sigma = (double)c->sigmas[0], variance = 1 + sigma * sigma,
           x = (double)noise[i] * sqrt(variance);
    double m = toy_mean(cond, i);
    return (m + (x - m) / variance) / c->latent_scale;
}

static void several_conditionings_are_averaged_by_strength(void **state)
{
    (void)state;
    job *j = job_new();
    ks_call *c = add_call(j, "euler", 1, 9);
    c->positives = 2;
    c->negatives = 2;
    j->positive[0][0].strength = 3;
    j->positive[0][1] = toy_guidance(&dog);
    j->negative[0][1] = toy_guidance(&dog);
    j->negative[0][1].strength = 0.5;
    ks_engine_stats stats = run(j, 4, 0);
    assert_int_equal(stats.rows, 4);
    float noise[ITEM];
    ks_noise_prepare(9, 1, ITEM, NULL, noise);
    for (int i = 0; i < ITEM; i++) {
        double d_cat = first_estimate(c, &cat, noise, i), d_dog = first_estimate(c, &dog, noise, i);
        double d_nothing = first_estimate(c, &nothing, noise, i);
        double positive = (3 * d_cat + d_dog) / 4, negative = (d_nothing + 0.5 * d_dog) / 1.5;
        assert_true(fabs((double)j->result[0][i] - (negative + 3 * (positive - negative))) < 1e-3);
    }
    free_job(j);
}

static void conditionings_count_in_their_range_of_sigmas_only(void **state)
{
    (void)state;
    job *j = job_new();
    ks_call *c = add_call(j, "euler", 10, 9);
    c->positives = 2;
    j->positive[0][1] = toy_guidance(&dog);
    j->positive[0][1].start_percent = 0.5; /* the later part: small sigmas */
    int later = 0;
    for (int i = 0; i < 10; i++)
        later += (double)c->sigmas[i] <= ks_percent_to_sigma(&eps, 0.5);
    assert_true(later > 0 && later < 10);
    assert_int_equal(run(j, 4, 0).rows, 20 + later);
    free_job(j);
}

static void a_side_without_active_conditionings_is_zero(void **state)
{
    (void)state;
    job *j = job_new();
    for (int k = 0; k < 2; k++) {
        add_call(j, "euler", 1, 9)->cfg = k == 0 ? 1 : 3;
        j->positive[k][0].start_percent = 1; /* never at these sigmas */
        j->positive[k][0].end_percent = 1;
    }
    run(j, 4, 0);
    float noise[ITEM];
    ks_noise_prepare(9, 1, ITEM, NULL, noise);
    for (int i = 0; i < ITEM; i++) {
        assert_true(j->result[0][i] == 0);
        double negative = first_estimate(&j->call[1], &nothing, noise, i);
        assert_true(fabs((double)j->result[1][i] + 2 * negative) < 1e-3);
    }
    free_job(j);
}

static void items_of_a_batch_follow_their_own_noise(void **state)
{
    (void)state;
    static const int64_t all[] = {0, 1, 2}, last[] = {2};
    job *j = job_new();
    ks_call *c = add_call(j, "dpmpp_2m", 6, 3);
    c->batch = 3;
    c->batch_index = all;
    add_call(j, "dpmpp_2m", 6, 3)->batch_index = last;
    add_call(j, "dpmpp_2m", 6, 3)->batch =
        3; /* joint noise: the same, items being multiples of 16 */
    run(j, 2, 0);
    assert_memory_equal(j->result[0] + 2 * ITEM, j->result[1], ITEM * sizeof(float));
    assert_true(same_bits(j, 0, j, 2));
    free_job(j);
}

static void a_mixed_sweep_keeps_the_network_calls_full(void **state)
{
    (void)state;
    job *j = job_new();
    static const char *const samplers[] = {"euler", "dpmpp_2m", "heun", "dpm_adaptive",
                                           "dpmpp_2m_sde"};
    for (int k = 0; k < 100; k++)
        add_call(j, samplers[k % 5], 10 + (k * 7) % 41, (uint64_t)k)->cfg = 1 + k % 8;
    ks_engine_stats stats = run(j, 16, 1 << 20);
    assert_true(stats.slots_before_dry > 100 * 16);
    assert_int_equal(stats.rows_before_dry, stats.slots_before_dry); /* 100 % */
    free_job(j);
}

static void a_latent_without_steps_comes_back_untouched(void **state)
{
    (void)state;
    float latent[ITEM];
    for (int i = 0; i < ITEM; i++)
        latent[i] = (float)i / 7;
    latent[3] = NAN;
    job *j = job_new();
    ks_call *c = add_call(j, "euler", 4, 1);
    c->latent = latent;
    c->count = 1;
    add_call(j, "euler", 4, 1)->count = 0;
    memset(j->result[1], 1, sizeof j->result[1]);
    run(j, 4, 0);
    assert_memory_equal(j->result[0], latent, sizeof latent);
    for (int i = 0; i < ITEM; i++)
        assert_true(j->result[1][i] == 0);
    assert_int_equal(j->nfe[0], 0);
    free_job(j);
}

static void without_noise_the_latent_alone_is_the_start(void **state)
{
    (void)state;
    float latent[ITEM];
    for (int i = 0; i < ITEM; i++)
        latent[i] = (float)i / 50;
    job *j = job_new();
    ks_call *c = add_call(j, "euler", 1, 1);
    c->latent = latent;
    c->add_noise = false;
    c->cfg = 1;
    run(j, 4, 0);
    double variance = 1 + (double)c->sigmas[0] * (double)c->sigmas[0];
    for (int i = 0; i < ITEM; i++) {
        double m = toy_mean(&cat, i), x = (double)latent[i] * c->latent_scale;
        assert_true(fabs((double)j->result[0][i] - (m + (x - m) / variance) / c->latent_scale) <
                    1e-4);
    }
    free_job(j);
}

static void one_lane_s_failure_stays_its_own(void **state)
{
    (void)state;
    job *with = job_new(), *without = job_new();
    add_call(with, "euler", 5, 1);
    add_call(with, "dpmpp_2m", 5, 1);
    with->positive[1][0] = toy_guidance(&broken);
    add_call(with, "ddim", 5, UINT64_MAX);
    add_call(with, "heun", 5, 2);
    add_call(without, "euler", 5, 1);
    add_call(without, "heun", 5, 2);
    run(with, 3, 1 << 20);
    run(without, 3, 1 << 20);
    assert_true(same_bits(with, 0, without, 0));
    assert_true(same_bits(with, 3, without, 1));
    assert_non_null(strstr(with->error[1], "not finite"));
    assert_non_null(strstr(with->error[2], "ddim"));
    assert_non_null(strstr(with->error[2], "18446744073709551615"));
    assert_string_equal(with->error[0], "");
    free_job(with);
    free_job(without);
}

static void a_latent_of_another_shape_is_refused_while_others_are_in_flight(void **state)
{
    (void)state;
    job *j = job_new();
    add_call(j, "euler", 5, 1);
    add_call(j, "euler", 5, 1)->height = 2 * SIDE;
    run(j, 8, 0);
    assert_string_equal(j->error[0], "");
    assert_non_null(strstr(j->error[1], "one latent shape"));
    free_job(j);
}

static void stopping_drops_what_is_in_flight_and_the_engine_can_run_again(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    ks_engine *engine = ks_engine_new(ops, 4, 1 << 20, &err);
    job *stopped = job_new(), *again = job_new(), *calm = job_new();
    job *all[] = {stopped, again, calm};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < 6; k++)
            add_call(all[i], k % 2 ? "dpm_adaptive" : "euler_ancestral", 5 + k, (uint64_t)k);
    stopped->stop_after_polls = 4;
    ks_engine_calls calls = calls_of(stopped);
    assert_int_equal(ks_engine_run(engine, &calls, &err), 1);
    assert_true(stopped->started > 0);
    assert_int_equal(stopped->ended, 0);
    calls = calls_of(again);
    assert_int_equal(ks_engine_run(engine, &calls, &err), 0);
    ks_engine_free(engine);
    assert_int_equal(host_ops_live(ops), 0);
    ops->free(ops);
    run(calm, 4, 1 << 20);
    for (int k = 0; k < 6; k++)
        assert_true(same_bits(again, k, calm, k));
    for (int i = 0; i < 3; i++)
        free_job(all[i]);
}

static void failing_callbacks_end_the_run_with_their_error(void **state)
{
    (void)state;
    static const char *const wanted[] = {"next fails", "done fails", "the toy network fails"};
    for (int k = 0; k < 3; k++) {
        ks_error err = KS_ERROR_NONE;
        ks_ops *ops = host_ops_new();
        ks_engine *engine = ks_engine_new(ops, 4, 1 << 20, &err);
        job *j = job_new();
        for (int i = 0; i < 6; i++)
            add_call(j, "heun", 3 + i, (uint64_t)i);
        j->fail_next = k == 0 ? 3 : 0;
        j->fail_done = k == 1 ? 2 : 0;
        j->network.fail_at = k == 2 ? 5 : 0;
        ks_engine_calls calls = calls_of(j);
        assert_int_equal(ks_engine_run(engine, &calls, &err), -1);
        assert_string_equal(err.text, wanted[k]);
        ks_engine_free(engine);
        assert_int_equal(host_ops_live(ops), 0);
        ops->free(ops);
        free_job(j);
    }
}

static void running_out_of_device_memory_anywhere_is_an_error_and_loses_nothing(void **state)
{
    (void)state;
    int status = -1;
    for (int allocs = 0; status != 0; allocs++) {
        assert_true(allocs < 200);
        ks_error err = KS_ERROR_NONE;
        ks_ops *ops = host_ops_new();
        host_ops_fail_after(ops, allocs);
        if (allocs % 2)
            host_ops_draw_noise(ops);
        ks_engine *engine = ks_engine_new(ops, 4, 1 << 20, &err);
        job *j = job_new();
        for (int i = 0; i < 4; i++)
            add_call(j, "heun", 3, (uint64_t)i)->batch = 1 + i % 2;
        ks_engine_calls calls = calls_of(j);
        status = engine ? ks_engine_run(engine, &calls, &err) : -1;
        if (status != 0)
            assert_non_null(strstr(err.text, "no device memory"));
        ks_engine_free(engine);
        assert_int_equal(host_ops_live(ops), 0);
        ops->free(ops);
        free_job(j);
    }
}

static void a_second_run_of_the_same_kind_allocates_nothing(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    ks_engine *engine = ks_engine_new(ops, 6, 64 * ITEM * sizeof(float), &err);
    int after_first = 0;
    for (int round = 0; round < 3; round++) {
        job *j = job_new();
        for (int k = 0; k < 30; k++)
            add_call(j, k % 2 ? "heun" : "dpmpp_2m", 4 + k % 3, (uint64_t)k);
        ks_engine_calls calls = calls_of(j);
        assert_int_equal(ks_engine_run(engine, &calls, &err), 0);
        free_job(j);
        after_first = round == 0 ? host_ops_allocs(ops) : after_first;
    }
    assert_int_equal(host_ops_allocs(ops), after_first);
    ks_engine_free(engine);
    ops->free(ops);
}

static void one_launch_serves_all_lanes_of_a_network_call(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    ks_engine *engine = ks_engine_new(ops, 8, 0, &err);
    job *j = job_new();
    for (int k = 0; k < 4; k++)
        add_call(j, k % 2 ? "dpmpp_2m_sde" : "euler_ancestral", 20, (uint64_t)k);
    ks_engine_calls calls = calls_of(j);
    assert_int_equal(ks_engine_run(engine, &calls, &err), 0);
    ks_engine_stats stats;
    ks_engine_stats_get(engine, &stats);
    assert_int_equal(stats.calls, 20);
    assert_true(host_ops_lincomb_calls(ops) <= stats.calls + 1);
    ks_engine_free(engine);
    ops->free(ops);
    free_job(j);
}

/* Every sampler with each generator, and every kind of initial noise: joint, picked from a batch, on a latent, under a mask. */
static void add_calls_of_all_noise(job *j, const float *latent, const float *mask, const int64_t *batch_index)
{
    static const char *const inpainting[] = {"euler", "ddim", "uni_pc"}; /* ddim keeps under noise of the next seed */
    for (int k = 0; k < 2 * ks_sampler_count(); k++) {
        ks_call *c = add_call(j, ks_sampler_at(k / 2)->name, 3 + k % 3, 100 + (uint64_t)k);
        c->noise_device = k % 2 ? (ks_noise_device){KS_NOISE_CUDA, 1 + k} : (ks_noise_device){.kind = KS_NOISE_CPU};
        c->batch = 1 + k % MAX_BATCH;
        c->latent = k % 3 == 0 ? latent : NULL;
        c->batch_index = k % 4 == 3 ? batch_index : NULL;
    }
    for (int k = 0; k < 6; k++) {
        ks_call *c = add_call(j, inpainting[k % 3], 4, (uint64_t)k);
        c->batch = 2;
        c->latent = k % 2 ? latent : NULL;
        c->batch_index = k >= 3 ? batch_index : NULL;
        c->noise_mask = mask;
        c->noise_masks = 1;
    }
    add_call(j, "euler_ancestral", 3, 7)->add_noise = false;
}

static void noise_that_the_device_draws_has_the_bits_of_the_host_s(void **state)
{
    (void)state;
    float latent[MAX_BATCH * ITEM], mask[SIDE * SIDE];
    static const int64_t batch_index[MAX_BATCH] = {2, 0, 2, 5};
    for (int i = 0; i < MAX_BATCH * ITEM; i++)
        latent[i] = (float)(i % 17) / 8 - 1;
    for (int i = 0; i < SIDE * SIDE; i++)
        mask[i] = (float)(i % 3) / 2;
    job *host = job_new(), *device = job_new();
    add_calls_of_all_noise(host, latent, mask, batch_index);
    add_calls_of_all_noise(device, latent, mask, batch_index);
    ks_ops *ops = host_ops_new();
    host_ops_draw_noise(ops);
    host_ops_be_late(ops);
    run_on(ops, device, 7, 1 << 20);
    run(host, 7, 1 << 20);
    for (int k = 0; k < host->calls; k++)
        if (!same_bits(host, k, device, k))
            fail_msg("call %d, %s: other noise on the device", k, host->call[k].sampler->name);
    free_job(host);
    free_job(device);
}

/* One operation between two network calls, whatever is drawn: each sampler that draws, four lanes of it, on Philox; the CPU
 * generator goes on from where it stands, so that a second draw of a lane waits for its first. */
static void one_launch_draws_for_all_lanes_of_a_network_call(void **state)
{
    (void)state;
    for (int s = 0; s < ks_sampler_count(); s++) {
        if (!ks_sampler_at(s)->stochastic)
            continue;
        ks_error err = KS_ERROR_NONE;
        ks_ops *ops = host_ops_new();
        host_ops_draw_noise(ops);
        ks_engine *engine = ks_engine_new(ops, 8, 0, &err);
        job *j = job_new();
        for (int k = 0; k < 4; k++)
            add_call(j, ks_sampler_at(s)->name, 8, (uint64_t)k)->noise_device = (ks_noise_device){KS_NOISE_CUDA, 132};
        ks_engine_calls calls = calls_of(j);
        assert_int_equal(ks_engine_run(engine, &calls, &err), 0);
        ks_engine_stats stats;
        ks_engine_stats_get(engine, &stats);
        if (host_ops_noise_calls(ops) > stats.calls || host_ops_lincomb_calls(ops) > stats.calls + 1)
            fail_msg("%s: %d draws and %d combinations for %d network calls", ks_sampler_at(s)->name,
                     host_ops_noise_calls(ops), host_ops_lincomb_calls(ops), (int)stats.calls);
        assert_true(host_ops_noise_calls(ops) > 1);
        ks_engine_free(engine);
        ops->free(ops);
        free_job(j);
    }
}

/* Runs the calls on a device whose results come late and whose operation number fail_at fails; gives the outcome. Nothing of
 * the device's memory may be lost. */
static int run_late(job *j, int fail_at, int *launches, ks_error *err)
{
    ks_ops *ops = host_ops_new();
    host_ops_be_late(ops);
    host_ops_draw_noise(ops);
    host_ops_fail_at(ops, fail_at);
    ks_engine *engine = ks_engine_new(ops, 5, 1 << 20, err);
    ks_engine_calls calls = calls_of(j);
    int status = ks_engine_run(engine, &calls, err);
    *launches = host_ops_launches(ops);
    ks_engine_free(engine);
    assert_int_equal(host_ops_live(ops), 0);
    ops->free(ops);
    return status;
}

static void results_that_come_late_have_the_same_bits(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    int launches;
    job *at_once = job_new(), *late = job_new();
    add_mixed_calls(at_once, -1);
    add_mixed_calls(late, -1);
    run(at_once, 5, 1 << 20);
    assert_int_equal(run_late(late, 0, &launches, &err), 0);
    assert_int_equal(late->ended, late->calls);
    for (int k = 0; k < late->calls; k++)
        assert_true(same_bits(late, k, at_once, k));
    free_job(at_once);
    free_job(late);
}

/* The device must have its next call before the host turns to what the last one has ended. */
static void a_late_result_is_told_when_the_next_call_is_queued(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    int launches;
    job *j = job_new();
    for (int k = 0; k < 2; k++) {
        add_call(j, "euler", 3 + 2 * k, 1 + (uint64_t)k);
        j->call[k].cfg = 1;
    }
    assert_int_equal(run_late(j, 0, &launches, &err), 0);
    assert_int_equal(j->network.calls, 5);
    assert_int_equal(j->calls_at_end[0], 4); /* ended by call 3 */
    assert_int_equal(j->calls_at_end[1], 5); /* nothing is left to be called */
    free_job(j);
}

static void a_stop_keeps_the_late_results_of_what_had_ended(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    int launches;
    job *j = job_new();
    add_call(j, "euler", 3, 1);
    add_call(j, "euler", 9, 2);
    j->stop_after_polls = 4; /* three calls were made */
    assert_int_equal(run_late(j, 0, &launches, &err), 1);
    assert_int_equal(j->network.calls, 3);
    assert_int_equal(j->ended, 1);
    assert_string_equal(j->error[0], "");
    free_job(j);
}

/* As a launch that fails on a GPU: the run ends with what the device says, and what was told before is right. */
static void a_failing_operation_anywhere_ends_the_run_with_its_error(void **state)
{
    (void)state;
    static const char *const samplers[] = {"euler_ancestral", "dpm_adaptive", "dpmpp_2m_sde", "heun"};
    ks_error err = KS_ERROR_NONE;
    int launches, unused;
    job *clean = job_new();
    for (int k = 0; k < 12; k++)
        add_call(clean, samplers[k % 4], 2 + k % 3, (uint64_t)k);
    assert_int_equal(run_late(clean, 0, &launches, &err), 0);
    for (int fail_at = 1; fail_at <= launches; fail_at += 1 + fail_at / 16) {
        job *j = job_new();
        for (int k = 0; k < 12; k++)
            add_call(j, samplers[k % 4], 2 + k % 3, (uint64_t)k);
        char *wanted = ks_format("operation %d fails", fail_at);
        err = KS_ERROR_NONE;
        assert_int_equal(run_late(j, fail_at, &unused, &err), -1);
        assert_string_equal(err.text, wanted);
        for (int k = 0; k < 12; k++)
            assert_true(j->nfe[k] == 0 || (j->error[k][0] == '\0' && same_bits(j, k, clean, k)));
        free(wanted);
        free_job(j);
    }
    free_job(clean);
}

static void an_engine_without_rows_is_refused(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    assert_null(ks_engine_new(ops, 0, 0, &err));
    assert_non_null(strstr(err.text, "0 rows"));
    ops->free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_lanes_have_the_bits_of_each_lane_alone),
        cmocka_unit_test(first_calls_are_shared_and_no_bit_changes),
        cmocka_unit_test(only_equal_beginnings_are_shared),
        cmocka_unit_test(cfg_of_one_costs_one_row),
        cmocka_unit_test(several_conditionings_are_averaged_by_strength),
        cmocka_unit_test(conditionings_count_in_their_range_of_sigmas_only),
        cmocka_unit_test(a_side_without_active_conditionings_is_zero),
        cmocka_unit_test(items_of_a_batch_follow_their_own_noise),
        cmocka_unit_test(a_mixed_sweep_keeps_the_network_calls_full),
        cmocka_unit_test(a_latent_without_steps_comes_back_untouched),
        cmocka_unit_test(without_noise_the_latent_alone_is_the_start),
        cmocka_unit_test(one_lane_s_failure_stays_its_own),
        cmocka_unit_test(a_latent_of_another_shape_is_refused_while_others_are_in_flight),
        cmocka_unit_test(stopping_drops_what_is_in_flight_and_the_engine_can_run_again),
        cmocka_unit_test(failing_callbacks_end_the_run_with_their_error),
        cmocka_unit_test(running_out_of_device_memory_anywhere_is_an_error_and_loses_nothing),
        cmocka_unit_test(a_second_run_of_the_same_kind_allocates_nothing),
        cmocka_unit_test(one_launch_serves_all_lanes_of_a_network_call),
        cmocka_unit_test(noise_that_the_device_draws_has_the_bits_of_the_host_s),
        cmocka_unit_test(one_launch_draws_for_all_lanes_of_a_network_call),
        cmocka_unit_test(results_that_come_late_have_the_same_bits),
        cmocka_unit_test(a_late_result_is_told_when_the_next_call_is_queued),
        cmocka_unit_test(a_stop_keeps_the_late_results_of_what_had_ended),
        cmocka_unit_test(a_failing_operation_anywhere_ends_the_run_with_its_error),
        cmocka_unit_test(an_engine_without_rows_is_refused),
    };
    return cmocka_run_group_tests(tests, init_models, NULL);
}
