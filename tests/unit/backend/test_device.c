/* The CPU backend as a device: memory, parameters in every form, failures that are kept. */
#include "acts.h"

static ks_ops *ops;

static void device_memory_is_zero_and_aligned(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    unsigned char *memory = ops->alloc(ops, 1000, &err);
    assert_non_null(memory);
    assert_int_equal((uintptr_t)memory % 64, 0);
    for (int i = 0; i < 1000; i++)
        assert_int_equal(memory[i], 0);
    ops->release(ops, memory);
    ops->release(ops, NULL);
}

static void too_much_memory_is_an_error(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    assert_null(ops->alloc(ops, SIZE_MAX / 2, &err));
    assert_non_null(strstr(err.text, "MiB"));
}

static void the_device_says_what_it_is(void **state)
{
    (void)state;
    assert_string_equal(ops->name, "cpu");
    assert_string_equal(ops->precision, "fp32");
    assert_true(strlen(ops->device) > 2);
    assert_null(strchr(ops->device, '\n'));
    assert_int_equal(ops->threads, 2);
    assert_true(ops->memory_free(ops) > 1 << 20);
}

/* A shape that does not fit is kept, stops what comes after, is handed out once and is then
 * over. */
static void the_first_failure_is_kept_and_handed_out_once(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_act a = random_act(ops, 1, 2, 2, 3, 0, 1), b = random_act(ops, 1, 2, 2, 4, 0, 2);
    ops->add(ops, a, a, b);
    float before = pixel_of(a, 0)[0];
    ops->add(ops, a, a, a);
    assert_true(pixel_of(a, 0)[0] == before);
    assert_null(ops->act(ops, 1, 1, 1, 1).data);
    assert_int_equal(ops->sync(ops, &err), -1);
    assert_non_null(strstr(err.text, "add: y [1, 2, 2, 3]"));
    assert_int_equal(ops->sync(ops, &err), 0);
    ops->add(ops, a, a, a);
    assert_true(pixel_of(a, 0)[0] == 2 * before);
    release_act(ops, a), release_act(ops, b);
}

/* --- parameters --- */

typedef struct number {
    uint16_t half, brain;
    float half_value, brain_value;
} number;

static const number numbers[] = {
    {0x0000, 0x0000, 0.0f, 0.0f},
    {0x8000, 0x8000, -0.0f, -0.0f},
    {0x3c00, 0x3f80, 1.0f, 1.0f},
    {0xc500, 0xc0a0, -5.0f, -5.0f},
    {0x0001, 0x0001, 0x1p-24f, 0x1p-133f},
    {0x83ff, 0x807f, -0x3ffp-24f, -0x7fp-133f},
    {0x0400, 0x0080, 0x1p-14f, 0x1p-126f},
    {0x7bff, 0x7f7f, 65504.0f, 0x1.fep127f},
    {0x7c00, 0x7f80, INFINITY, INFINITY},
    {0xfc00, 0xff80, -INFINITY, -INFINITY},
    {0x3555, 0x3eab, 0x1.554p-2f, 0x1.56p-2f},
};

enum { NUMBERS = sizeof numbers / sizeof *numbers };

/* The table's values read back through an embedding of zero positions. */
static void read_table(const ks_view *view, float *out)
{
    static const float zeros[NUMBERS] = {0};
    static const int32_t id = 0;
    ks_error err = KS_ERROR_NONE;
    ks_view zero_view = view_of(zeros, 2, 1, NUMBERS, 0, 0);
    ks_weight *t = ops->table(ops, view, &err), *zero = ops->table(ops, &zero_view, &err);
    assert_non_null(t);
    assert_non_null(zero);
    ks_act y = {out, 1, 1, 1, NUMBERS, NUMBERS};
    ops->embedding(ops, y, &id, t, zero);
    no_failure(ops);
    ops->weight_free(ops, t);
    ops->weight_free(ops, zero);
}

static void every_number_format_is_read_exactly_at_any_address(void **state)
{
    (void)state;
    unsigned char bytes[3][8 * NUMBERS + 1];
    for (int i = 0; i < NUMBERS; i++) {
        double value = (double)numbers[i].half_value;
        memcpy(bytes[0] + 1 + 2 * i, &numbers[i].half, 2);
        memcpy(bytes[1] + 1 + 2 * i, &numbers[i].brain, 2);
        memcpy(bytes[2] + 1 + 8 * i, &value, 8);
    }
    static const ks_dtype types[] = {KS_F16, KS_BF16, KS_F64};
    for (int t = 0; t < 3; t++) {
        ks_view view = view_of(bytes[t] + 1, 2, 1, NUMBERS, 0, 0);
        view.dtype = types[t];
        float out[NUMBERS];
        read_table(&view, out);
        for (int i = 0; i < NUMBERS; i++)
            assert_true(out[i] == (t == 1 ? numbers[i].brain_value : numbers[i].half_value));
    }
}

static void a_half_nan_stays_nan(void **state)
{
    (void)state;
    uint16_t halves[NUMBERS] = {0x7e00, 0xfc01};
    ks_view view = view_of(halves, 2, 1, NUMBERS, 0, 0);
    view.dtype = KS_F16;
    float out[NUMBERS];
    read_table(&view, out);
    assert_true(isnan(out[0]) && isnan(out[1]) && out[2] == 0.0f);
}

/* Three parts of sizes that fill no cache line give, side by side, what each gives alone. */
static void joined_parts_follow_one_another(void **state)
{
    (void)state;
    enum { IN = 11, PARTS = 3 };
    static const int outs[PARTS] = {5, 16, 9};
    float *w[PARTS], *bias[PARTS];
    ks_view views[PARTS], bias_views[PARTS];
    ks_error err = KS_ERROR_NONE;
    ks_act x = random_act(ops, 1, 6, 1, IN, 0, 9), y = empty_act(ops, 1, 6, 1, 30, 1), absent = {0};
    for (int i = 0; i < PARTS; i++) {
        w[i] = random_floats(outs[i] * IN, (uint32_t)i);
        bias[i] = random_floats(outs[i], 50 + (uint32_t)i);
        views[i] = view_of(w[i], 2, outs[i], IN, 0, 0);
        bias_views[i] = view_of(bias[i], 1, outs[i], 0, 0, 0);
    }
    ks_weight *joined = ops->weight(ops, KS_USE_LINEAR, PARTS, views, bias_views, &err);
    assert_non_null(joined);
    ops->linear(ops, y, x, joined, KS_ACT_NONE, absent);
    for (int i = 0, first = 0; i < PARTS; first += outs[i++]) {
        ks_weight *alone = ops->weight(ops, KS_USE_LINEAR, 1, &views[i], &bias_views[i], &err);
        ks_act part = empty_act(ops, 1, 6, 1, outs[i], 0);
        assert_non_null(alone);
        ops->linear(ops, part, x, alone, KS_ACT_NONE, absent);
        no_failure(ops);
        for (int p = 0; p < 6; p++)
            for (int k = 0; k < outs[i]; k++)
                assert_true(fabsf(pixel_of(part, p)[k] - pixel_of(y, p)[first + k]) < 1e-5f);
        release_act(ops, part);
        ops->weight_free(ops, alone);
        free(w[i]), free(bias[i]);
    }
    ops->weight_free(ops, joined);
    release_act(ops, x), release_act(ops, y);
}

static void a_pointwise_convolution_is_a_linear_layer(void **state)
{
    (void)state;
    param p = random_param(ops, 12, 20, 1, true, 3);
    ks_act x = random_act(ops, 2, 4, 3, 20, 0, 1), y = empty_act(ops, 2, 4, 3, 12, 0);
    ks_act z = empty_act(ops, 2, 4, 3, 12, 0), absent = {0};
    ops->conv(ops, y, x, p.weight, &(ks_conv){.stride = 1});
    ops->linear(ops, z, x, p.weight, KS_ACT_NONE, absent);
    no_failure(ops);
    assert_memory_equal(y.data, z.data, 2 * 4 * 3 * 12 * sizeof(float));
    free_param(ops, p);
    release_act(ops, x), release_act(ops, y), release_act(ops, z);
}

static void parameters_of_wrong_shape_are_refused(void **state)
{
    (void)state;
    static const float data[64] = {0};
    ks_view two[] = {view_of(data, 2, 4, 3, 0, 0), view_of(data, 2, 4, 5, 0, 0)};
    ks_view cube = view_of(data, 3, 2, 2, 2, 0), integers = view_of(data, 2, 4, 3, 0, 0);
    ks_view vector = view_of(data, 1, 4, 0, 0, 0), longer = view_of(data, 1, 5, 0, 0, 0);
    integers.dtype = KS_I32;
    struct {
        ks_weight *made;
        const char *says;
    } cases[6];
    ks_error err[6] = {KS_ERROR_NONE};
    cases[0].made = ops->weight(ops, KS_USE_LINEAR, 2, two, NULL, &err[0]), cases[0].says = "differ";
    cases[1].made = ops->weight(ops, KS_USE_LINEAR, 1, &cube, NULL, &err[1]), cases[1].says = "rank 3";
    cases[2].made = ops->weight(ops, KS_USE_LINEAR, 1, &integers, NULL, &err[2]), cases[2].says = "integer";
    cases[3].made = ops->weight(ops, KS_USE_LINEAR, 1, two, &longer, &err[3]), cases[3].says = "[4]";
    cases[4].made = ops->norm_weight(ops, &vector, &longer, &err[4]), cases[4].says = "shift";
    cases[5].made = ops->table(ops, &vector, &err[5]), cases[5].says = "rank 1";
    for (int i = 0; i < 6; i++) {
        assert_null(cases[i].made);
        assert_non_null(strstr(err[i].text, cases[i].says));
    }
    no_failure(ops);
}

static void a_token_outside_the_table_is_a_failure(void **state)
{
    (void)state;
    static const int32_t id = 10;
    float *tokens = random_floats(10 * 6, 1);
    ks_view view = view_of(tokens, 2, 10, 6, 0, 0);
    ks_error err = KS_ERROR_NONE;
    ks_weight *t = ops->table(ops, &view, &err);
    ks_act y = empty_act(ops, 1, 1, 1, 6, 0);
    ops->embedding(ops, y, &id, t, t);
    assert_int_equal(ops->sync(ops, &err), -1);
    ops->weight_free(ops, t);
    free(tokens);
    release_act(ops, y);
}

static int set_up(void **state)
{
    (void)state;
    ops = new_cpu(2);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    ops->free(ops);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(device_memory_is_zero_and_aligned),
        cmocka_unit_test(too_much_memory_is_an_error),
        cmocka_unit_test(the_device_says_what_it_is),
        cmocka_unit_test(the_first_failure_is_kept_and_handed_out_once),
        cmocka_unit_test(every_number_format_is_read_exactly_at_any_address),
        cmocka_unit_test(a_half_nan_stays_nan),
        cmocka_unit_test(joined_parts_follow_one_another),
        cmocka_unit_test(a_pointwise_convolution_is_a_linear_layer),
        cmocka_unit_test(parameters_of_wrong_shape_are_refused),
        cmocka_unit_test(a_token_outside_the_table_is_a_failure),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
