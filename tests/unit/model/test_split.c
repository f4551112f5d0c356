/* How a network is split: which numbers of parts fit, what a part holds, and its shares of tensors. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "model/internal.h"
#include "support/known_unets.h"
#include "support/open_model.h"

static const ks_unet_config sd15 = {
    .in_channels = 4,
    .out_channels = 4,
    .model_channels = 320,
    .levels = 4,
    .channel_mult = {1, 2, 4, 4},
    .res_blocks = {2, 2, 2, 2},
    .depth_in = {{1, 1}, {1, 1}, {1, 1}, {0, 0}},
    .depth_out = {{1, 1, 1}, {1, 1, 1}, {1, 1, 1}, {0, 0, 0}},
    .depth_middle = 1,
    .context_dim = 768,
    .heads = 8,
};

/* --- numbers of parts --- */

static void check_fits(const ks_unet_config *c, int most, const int *fitting)
{
    for (int parts = 1; parts <= most; parts++) {
        bool fits = false;
        for (const int *f = fitting; *f; f++)
            fits = fits || *f == parts;
        assert_int_equal(ks_unet_split_fits(c, parts, NULL), fits ? 0 : -1);
    }
}

static void heads_and_groups_decide_the_number_of_parts(void **state)
{
    (void)state;
    check_fits(&known_sdxl, 64, (int[]){1, 2, 0});
    check_fits(&sd15, 64, (int[]){1, 2, 4, 8, 0});
    ks_unet_config other = sd15;
    other.heads = 5;
    check_fits(&other, 64, (int[]){1, 0});
    other.heads = 12;
    check_fits(&other, 64, (int[]){1, 2, 4, 0});
    ks_unet_config none = {.in_channels = 4, .out_channels = 4, .model_channels = 32, .levels = 1, .channel_mult = {1},
                           .res_blocks = {1}, .depth_middle = -1, .head_channels = 32};
    check_fits(&none, 64, (int[]){1, 2, 4, 8, 16, 32, 0});
}

static void a_refusal_says_what_would_do(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_unet_config odd = sd15;
    odd.heads = 5;
    assert_int_equal(ks_unet_split_fits(&known_sdxl, 4, &err), -1);
    assert_string_equal(err.text, "the network's norms have 32 groups, its attention 10 and 20 heads: it cannot be split into 4 parts, "
                                  "but into 2");
    assert_int_equal(ks_unet_split_fits(&sd15, 3, &err), -1);
    assert_string_equal(err.text, "the network's norms have 32 groups, its attention 8 heads: it cannot be split into 3 parts, but into "
                                  "2, 4 or 8");
    assert_int_equal(ks_unet_split_fits(&odd, 2, &err), -1);
    assert_string_equal(err.text, "the network's norms have 32 groups, its attention 5 heads: it cannot be split at all");
    assert_int_equal(ks_unet_split_fits(&sd15, 0, &err), -1);
    assert_int_equal(ks_unet_split_fits(&sd15, -2, &err), -1);
}

static void loading_refuses_a_number_of_parts_that_does_not_fit(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    open_model o = open_model_at(TEST_DATA "/tiny-sd15.safetensors", 1, 0, NULL);
    ks_safetensors *st = ks_safetensors_open(TEST_DATA "/tiny-sd15.safetensors", &err);
    assert_non_null(st);
    const ks_split third = {2, 3};
    assert_null(ks_model_load(st, ks_model_config_of(o.model), o.ops, &third, 0, NULL, &err));
    assert_non_null(strstr(err.text, "tiny-sd15.safetensors: the network's norms have 32 groups, its attention 4 heads"));
    ks_safetensors_close(st);
    close_model(&o);
}

/* --- what a part holds --- */

static void half_of_sdxl_is_little_more_than_half(void **state)
{
    (void)state;
    assert_true(ks_unet_weight_share(&known_sdxl, 1) == 1);
    double share = ks_unet_weight_share(&known_sdxl, 2);
    assert_true(share > 0.5 && share < 0.55);
    for (int parts = 2; parts <= 8; parts *= 2)
        assert_true(ks_unet_weight_share(&sd15, parts) > 1.0 / parts &&
                    ks_unet_weight_share(&sd15, parts) < ks_unet_weight_share(&sd15, parts / 2));
}

static void a_part_needs_less_for_activations_and_conditionings(void **state)
{
    (void)state;
    double whole = ks_unet_activation_bytes(&known_sdxl, 1, 128, 128, 2), half = ks_unet_activation_bytes(&known_sdxl, 2, 128, 128, 2);
    assert_true(half < whole && half > whole / 2);
    double label = 4.0 * known_sdxl.model_channels * sizeof(float);
    double kv = ks_unet_conditioning_bytes(&known_sdxl, 1, 77, 2) - label;
    assert_true(ks_unet_conditioning_bytes(&known_sdxl, 2, 77, 2) - label == kv / 2);
}

/* --- parts that act alike --- */

enum { SHORT = 5, LONG = 200, SIDE = 8 };

/* The first half of a network without the other: what it computes is wrong, and as much as in its company. */
static open_model open_half(void)
{
    static ks_group alone = {.rank = 0, .size = 1};
    const ks_split half = {0, 2};
    ks_error err = KS_ERROR_NONE;
    open_model o = open_model_at(TEST_DATA "/tiny-sd15.safetensors", 1, 0, NULL);
    ks_safetensors *st = ks_safetensors_open(TEST_DATA "/tiny-sd15.safetensors", &err);
    assert_non_null(st);
    ks_model *part = ks_model_load(st, ks_model_config_of(o.model), o.ops, &half, 0, NULL, &err);
    assert_non_null(part);
    ks_model_free(o.model);
    o.model = part;
    ks_safetensors_close(st);
    assert_int_equal(o.ops->join(o.ops, &alone, &alone, &err), 0);
    return o;
}

static ks_cond *cond_of(ks_model *m, int tokens)
{
    static float context[LONG * 32];
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_model_config_of(m)->unet.context_dim, 32);
    ks_cond *cond = ks_cond_new(m, context, tokens, NULL, &err);
    assert_non_null(cond);
    return cond;
}

static void run_with(ks_model *m, ks_cond *cond)
{
    float x[4 * SIDE * SIDE] = {0}, out[4 * SIDE * SIDE];
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_model_forward(m, x, &(int){500}, &cond, 1, SIDE, SIDE, out, &err), 0);
}

/* The place of keys and values decides what a kept call is: it follows from the calls alone, whatever else a part does. */
static void parts_that_make_the_same_calls_have_pools_alike(void **state)
{
    (void)state;
    open_model one = open_half(), other = open_half();
    ks_cond *ahead = cond_of(one.model, LONG), *first = cond_of(one.model, SHORT), *second = cond_of(other.model, SHORT);
    run_with(one.model, first);
    run_with(other.model, second);
    assert_int_equal(one.model->pool.tokens, other.model->pool.tokens);
    assert_int_equal(one.model->pool.slots, other.model->pool.slots);
    assert_true(one.model->pool.tokens < LONG);
    ks_cond *later = cond_of(other.model, LONG);
    run_with(one.model, ahead);
    run_with(other.model, later);
    assert_int_equal(one.model->pool.tokens, LONG);
    assert_int_equal(other.model->pool.tokens, LONG);
    ks_cond *const conds[] = {ahead, first, second, later};
    for (size_t i = 0; i < sizeof conds / sizeof *conds; i++)
        ks_cond_free(conds[i]);
    close_model(&one);
    close_model(&other);
}

/* --- shares of tensors --- */

enum { OUT = 6, IN = 4, TAPS = 2 };

static void shares_of_a_tensor_are_its_rows_or_columns(void **state)
{
    (void)state;
    uint16_t w[OUT][IN][TAPS], taken[OUT][IN / 2][TAPS];
    for (int o = 0; o < OUT; o++)
        for (int i = 0; i < IN; i++)
            for (int t = 0; t < TAPS; t++)
                w[o][i][t] = (uint16_t)(100 * o + 10 * i + t);
    const ks_view v = {.data = w, .dtype = KS_F16, .rank = 4, .shape = {OUT, IN, TAPS, 1}};
    const ks_split third = {2, 3}, half = {1, 2};
    ks_view rows = ks_split_rows(third, &v);
    assert_ptr_equal(rows.data, &w[4]);
    assert_int_equal(rows.shape[0], 2);
    assert_int_equal(rows.shape[1], IN);
    memset(taken, 0xff, sizeof taken);
    ks_view columns = ks_split_columns(half, &v, taken);
    assert_ptr_equal(columns.data, taken);
    assert_int_equal(columns.shape[0], OUT);
    assert_int_equal(columns.shape[1], IN / 2);
    for (int o = 0; o < OUT; o++)
        assert_memory_equal(taken[o], w[o][2], sizeof taken[o]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_and_groups_decide_the_number_of_parts),
        cmocka_unit_test(a_refusal_says_what_would_do),
        cmocka_unit_test(loading_refuses_a_number_of_parts_that_does_not_fit),
        cmocka_unit_test(half_of_sdxl_is_little_more_than_half),
        cmocka_unit_test(a_part_needs_less_for_activations_and_conditionings),
        cmocka_unit_test(parts_that_make_the_same_calls_have_pools_alike),
        cmocka_unit_test(shares_of_a_tensor_are_its_rows_or_columns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
