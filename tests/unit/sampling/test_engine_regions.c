/* The lane engine with areas, masks and inpainting, on a network whose estimate is known: D(x) = m
 * + (x - m) / (1 + sigma^2) in every cell, m being the conditioning's mean. A mean of several of
 * them is the D of the mean m. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "sampling/engine.h"
#include "support/host_ops.h"

enum {
    HEIGHT = 12,
    WIDTH = 10,
    CELLS = HEIGHT * WIDTH,
    CHANNELS = 4,
    ITEM = CHANNELS * CELLS,
    MAX_BATCH = 3,
    MAX_CALLS = 96,
    MAX_SIDE = 3
};

struct ks_cond {
    double mean;
};

static const struct ks_cond cat = {1}, dog = {-2}, nothing = {0};
static ks_model_sampling eps;

typedef struct job {
    ks_call call[MAX_CALLS];
    ks_guidance positive[MAX_CALLS][MAX_SIDE], negative[MAX_CALLS][MAX_SIDE];
    float result[MAX_CALLS][MAX_BATCH * ITEM];
    int place[MAX_CALLS]; /* in the order in which the calls ended */
    int calls, started, ended;
} job;

static int init_model(void **state)
{
    (void)state;
    ks_model_sampling_init(&eps, KS_PREDICT_EPS, false, 0.00085, 0.012);
    return 0;
}

static ks_guidance side_of(const struct ks_cond *c)
{
    return (ks_guidance){.cond = c,
                         .id = ks_hash(c, sizeof *c),
                         .strength = 1,
                         .end_percent = 1,
                         .mask_strength = 1};
}

/* A call of cat against nothing; free_job frees its sigmas. */
static ks_call *add_call(job *j, const char *sampler, int steps, double cfg)
{
    int k = j->calls++;
    ks_error err = KS_ERROR_NONE;
    const ks_sampler *s = ks_sampler_at(ks_sampler_find(sampler));
    ks_call *c = &j->call[k];
    float *sigmas;
    assert_true(k < MAX_CALLS);
    j->positive[k][0] = side_of(&cat);
    j->negative[k][0] = side_of(&nothing);
    *c = (ks_call){.sampler = s,
                   .model_sampling = &eps,
                   .cfg = cfg,
                   .seed = 7,
                   .batch = 1,
                   .channels = CHANNELS,
                   .height = HEIGHT,
                   .width = WIDTH,
                   .latent_scale = 0.5,
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
    (void)err;
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
    (void)err;
    assert_null(result->error);
    j->place[k] = j->ended++;
    memcpy(j->result[k], result->latent, (size_t)j->call[k].batch * ITEM * sizeof(float));
    return 0;
}

static int network(void *self, const ks_net_row *row, int n, ks_error *err)
{
    (void)self, (void)err;
    for (int k = 0; k < n; k++) {
        double inverse = (double)row[k].scale * (double)row[k].scale, sigma = sqrt(1 / inverse - 1);
        assert_true(row[k].height == row[0].height && row[k].width == row[0].width);
        for (int i = 0; i < CHANNELS * row[k].height * row[k].width; i++)
            row[k].out[i] = (float)(sigma * inverse * ((double)row[k].x[i] - row[k].cond->mean));
    }
    return 0;
}

static ks_engine_stats run(job *j, int rows, size_t share_bytes)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    ks_engine *engine = ks_engine_new(ops, rows, share_bytes, &err);
    ks_engine_calls calls = {.self = j, .next = next, .done = done, .network = network};
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

/* What one step from noise to sigma 0 gives for a mean, in the result's units. */
static double estimate(const ks_call *c, const float *noise, int i, double mean)
{
    double sigma = (double)c->sigmas[0], variance = 1 + sigma * sigma;
    double x = (double)noise[i] * sqrt(variance);
    return (mean + (x - mean) / variance) / c->latent_scale;
}

static double fade(int t, int length)
{
    int reach = length / 4 < 8 ? length / 4 : 8;
    return t < reach ? (double)(t + 1) / reach : 1;
}

static const ks_window area = {.y = 4, .x = 0, .h = 8, .w = 8};

/* The weight of `area` in a cell of the latent: it fades at its top and its right. */
static double weight_of_area(int y, int x)
{
    if (y < area.y || x >= area.w)
        return 0;
    return fade(y - area.y, area.h) * fade(area.w - 1 - x, area.w);
}

static void an_area_counts_where_it_lies_and_fades(void **state)
{
    (void)state;
    job *j = ks_calloc(1, sizeof *j);
    ks_call *c = add_call(j, "euler", 1, 1);
    c->positives = 2;
    j->positive[0][1] = side_of(&dog);
    j->positive[0][1].strength = 0.5;
    j->positive[0][1].has_area = true;
    j->positive[0][1].area = area;
    assert_int_equal(run(j, 4, 0).rows, 2);
    float noise[ITEM];
    ks_noise_prepare(7, 1, ITEM, NULL, noise);
    for (int i = 0; i < ITEM; i++) {
        double w = 0.5 * weight_of_area(i % CELLS / WIDTH, i % WIDTH);
        double mean = (cat.mean + w * dog.mean) / (1 + w);
        assert_true(fabs((double)j->result[0][i] - estimate(c, noise, i, mean)) < 1e-4);
    }
    free_job(j);
}

static void where_no_area_is_the_side_is_zero(void **state)
{
    (void)state;
    job *j = ks_calloc(1, sizeof *j);
    ks_call *c = add_call(j, "euler", 1, 1);
    j->positive[0][0].has_area = true;
    j->positive[0][0].area = area;
    run(j, 4, 0);
    float noise[ITEM];
    ks_noise_prepare(7, 1, ITEM, NULL, noise);
    for (int i = 0; i < ITEM; i++) {
        bool inside = weight_of_area(i % CELLS / WIDTH, i % WIDTH) > 0;
        double want = inside ? estimate(c, noise, i, cat.mean) : 0;
        assert_true(fabs((double)j->result[0][i] - want) < 1e-4);
    }
    free_job(j);
}

static void both_sides_see_an_area_in_calls_of_its_own_size(void **state)
{
    (void)state;
    job *j = ks_calloc(1, sizeof *j);
    ks_call *c = add_call(j, "euler", 5, 3);
    c->positives = 2;
    j->positive[0][1] = side_of(&dog);
    j->positive[0][1].has_area = true;
    j->positive[0][1].area = area;
    ks_engine_stats stats = run(j, 4, 0);
    assert_int_equal(stats.rows, 5 * 4);
    assert_int_equal(stats.calls, 5 * 2);
    free_job(j);
}

static void a_mask_weighs_each_cell_of_each_latent(void **state)
{
    (void)state;
    float mask[2 * CELLS];
    for (int i = 0; i < 2 * CELLS; i++)
        mask[i] = (float)(i * 7 % 11) / 10;
    job *j = ks_calloc(1, sizeof *j);
    ks_call *c = add_call(j, "euler", 1, 1);
    c->batch = 2;
    c->positives = 2;
    j->positive[0][1] = side_of(&dog);
    j->positive[0][1].mask = mask;
    j->positive[0][1].masks = 2;
    j->positive[0][1].mask_strength = 0.75;
    j->positive[0][1].strength = 2;
    run(j, 4, 0);
    float noise[2 * ITEM];
    ks_noise_prepare(7, 2, ITEM, NULL, noise);
    for (int i = 0; i < 2 * ITEM; i++) {
        double w = 1.5 * (double)mask[i / ITEM * CELLS + i % CELLS];
        double mean = (cat.mean + w * dog.mean) / (1 + w);
        assert_true(fabs((double)j->result[0][i] - estimate(c, noise, i, mean)) < 1e-4);
    }
    free_job(j);
}

static void a_mask_with_an_area_counts_in_it_without_fading(void **state)
{
    (void)state;
    float mask[CELLS];
    for (int i = 0; i < CELLS; i++)
        mask[i] = (float)(i * 5 % 13) / 12;
    job *j = ks_calloc(1, sizeof *j);
    ks_call *c = add_call(j, "euler", 1, 1);
    c->positives = 2;
    j->positive[0][1] = side_of(&dog);
    j->positive[0][1].mask = mask;
    j->positive[0][1].masks = 1;
    j->positive[0][1].has_area = true;
    j->positive[0][1].area = area;
    run(j, 4, 0);
    float noise[ITEM];
    ks_noise_prepare(7, 1, ITEM, NULL, noise);
    for (int i = 0; i < ITEM; i++) {
        bool inside = weight_of_area(i % CELLS / WIDTH, i % WIDTH) > 0;
        double w = inside ? (double)mask[i % CELLS] : 0;
        double mean = (cat.mean + w * dog.mean) / (1 + w);
        assert_true(fabs((double)j->result[0][i] - estimate(c, noise, i, mean)) < 1e-4);
    }
    free_job(j);
}

/* One step from noise: the network sees x m + (noise sigma + latent)(1 - m). */
static void a_noise_mask_keeps_the_latent_where_it_is_zero(void **state)
{
    (void)state;
    static float latent[ITEM];
    float mask[CELLS], noise[ITEM], second[ITEM];
    for (int i = 0; i < ITEM; i++)
        latent[i] = 0.25F * (float)(i % 9);
    for (int i = 0; i < CELLS; i++)
        mask[i] = (float)(i % 5) / 4;
    ks_noise_prepare(7, 1, ITEM, NULL, noise);
    ks_noise_prepare(8, 1, ITEM, NULL, second);
    job *j = ks_calloc(1, sizeof *j);
    for (int k = 0; k < 3; k++) {
        ks_call *c = add_call(j, k == 1 ? "ddim" : "euler", 1, 1);
        c->noise_mask = mask;
        c->noise_masks = 1;
        c->latent = k == 2 ? NULL : latent;
    }
    run(j, 4, 0);
    for (int k = 0; k < 3; k++) {
        const ks_call *c = &j->call[k];
        double sigma = (double)c->sigmas[0], variance = 1 + sigma * sigma;
        for (int i = 0; i < ITEM; i++) {
            double m = (double)mask[i % CELLS], kept = k == 2 ? 0 : 0.5 * (double)latent[i];
            double n = (double)(k == 1 ? second[i] : noise[i]);
            double x = (double)noise[i] * sqrt(variance) + kept;
            double seen = x * m + (n * sigma + kept) * (1 - m);
            double d = cat.mean + (seen - cat.mean) / variance;
            double want = (d * m + kept * (1 - m)) / 0.5;
            assert_true(fabs((double)j->result[k][i] - want) < 1e-4);
        }
    }
    free_job(j);
}

/* All samplers with areas, masks and inpainting in turns; only: that one alone, -1 all. */
static void add_mixed_calls(job *j, int only)
{
    static float mask[2 * CELLS], latent[MAX_BATCH * ITEM];
    for (int i = 0; i < 2 * CELLS; i++)
        mask[i] = (float)(i % 7) / 6;
    for (int i = 0; i < MAX_BATCH * ITEM; i++)
        latent[i] = (float)(i % 17) / 17;
    for (int k = 0; k < 2 * ks_sampler_count(); k++) {
        if (only >= 0 && only != k)
            continue;
        ks_call *c = add_call(j, ks_sampler_at(k / 2)->name, 3 + k % 4, (double[]){1, 3, 0}[k % 3]);
        ks_guidance *p = j->positive[j->calls - 1], *n = j->negative[j->calls - 1];
        c->batch = 1 + k % 3;
        c->positives = 2;
        p[1] = side_of(&dog);
        p[1].has_area = k % 4 != 3;
        p[1].area = (ks_window){.y = k % 3, .x = 2, .h = 4 + k % 5, .w = 6};
        p[1].mask = k % 5 == 0 ? mask : NULL;
        p[1].masks = 1;
        p[1].start_percent = k % 7 == 0 ? 0.5 : 0;
        n[0].has_area = k % 6 == 5;
        n[0].area = area;
        c->noise_mask = k % 2 ? mask : NULL;
        c->noise_masks = 2;
        c->latent = k % 4 ? latent : NULL;
    }
}

static void mixed_lanes_have_the_bits_of_each_lane_alone(void **state)
{
    (void)state;
    job *together = ks_calloc(1, sizeof *together);
    add_mixed_calls(together, -1);
    run(together, 7, 1 << 20);
    for (int k = 0; k < together->calls; k++) {
        job *alone = ks_calloc(1, sizeof *alone);
        add_mixed_calls(alone, k);
        run(alone, 1, 0);
        size_t bytes = (size_t)alone->call[0].batch * ITEM * sizeof(float);
        if (memcmp(together->result[k], alone->result[0], bytes) != 0)
            fail_msg("call %d, %s, differs alone", k, together->call[k].sampler->name);
        free_job(alone);
    }
    free_job(together);
}

static void only_equal_areas_and_masks_share_their_first_call(void **state)
{
    (void)state;
    static float one[CELLS], other[CELLS] = {1};
    job *j = ks_calloc(1, sizeof *j);
    for (int k = 0; k < 6; k++) {
        ks_call *c = add_call(j, "euler", 4, 1);
        j->positive[k][0].has_area = k < 3;
        j->positive[k][0].area = area;
        j->positive[k][0].area.x = k == 2 ? 1 : 0; /* the third's window is elsewhere */
        c->noise_mask = k < 3 ? NULL : k == 5 ? other : one;
        c->noise_masks = 1;
    }
    assert_int_equal(run(j, 8, 1 << 20).rows_saved, 2); /* the second's and the fifth's */
    free_job(j);
}

static void areas_of_many_sizes_are_served_and_forgotten(void **state)
{
    (void)state;
    job *j = ks_calloc(1, sizeof *j);
    for (int k = 0; k < 80; k++) {
        add_call(j, "euler", 2, 1);
        j->positive[k][0].has_area = true;
        j->positive[k][0].area = (ks_window){.h = 1 + k / 10, .w = 1 + k % 10};
    }
    ks_engine_stats stats = run(j, 4, 1 << 20);
    assert_int_equal(stats.rows, 160);
    free_job(j);
}

static void a_rare_size_does_not_wait_for_the_end(void **state)
{
    (void)state;
    job *j = ks_calloc(1, sizeof *j);
    for (int k = 0; k < 90; k++)
        add_call(j, "euler", 8, 1);
    j->positive[0][0].has_area = true;
    j->positive[0][0].area = area;
    assert_int_equal(run(j, 2, 0).rows, 90 * 8);
    assert_true(j->place[0] < 60); /* it would be the last if its rows waited for others */
    free_job(j);
}

static void running_out_of_device_memory_anywhere_is_an_error_and_loses_nothing(void **state)
{
    (void)state;
    int failed = 0;
    for (int limit = 0;; limit++) {
        ks_error err = KS_ERROR_NONE;
        job *j = ks_calloc(1, sizeof *j);
        add_mixed_calls(j, 1);
        ks_ops *ops = host_ops_new();
        ks_engine *engine = ks_engine_new(ops, 4, 1 << 20, &err);
        ks_engine_calls calls = {.self = j, .next = next, .done = done, .network = network};
        host_ops_fail_after(ops, limit);
        int status = ks_engine_run(engine, &calls, &err);
        ks_engine_free(engine);
        assert_int_equal(host_ops_live(ops), 0);
        ops->free(ops);
        free_job(j);
        if (status == 0)
            break;
        assert_non_null(strstr(err.text, "no device memory"));
        failed++;
    }
    assert_true(failed > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_area_counts_where_it_lies_and_fades),
        cmocka_unit_test(where_no_area_is_the_side_is_zero),
        cmocka_unit_test(both_sides_see_an_area_in_calls_of_its_own_size),
        cmocka_unit_test(a_mask_weighs_each_cell_of_each_latent),
        cmocka_unit_test(a_mask_with_an_area_counts_in_it_without_fading),
        cmocka_unit_test(a_noise_mask_keeps_the_latent_where_it_is_zero),
        cmocka_unit_test(mixed_lanes_have_the_bits_of_each_lane_alone),
        cmocka_unit_test(only_equal_areas_and_masks_share_their_first_call),
        cmocka_unit_test(areas_of_many_sizes_are_served_and_forgotten),
        cmocka_unit_test(a_rare_size_does_not_wait_for_the_end),
        cmocka_unit_test(running_out_of_device_memory_anywhere_is_an_error_and_loses_nothing),
    };
    return cmocka_run_group_tests(tests, init_model, NULL);
}
