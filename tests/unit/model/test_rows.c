/* Network calls: a row's bits come from its own latent, timestep and conditioning alone. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "support/open_model.h"

enum {
    CHANNELS = 4,
    HEIGHT = 7,
    WIDTH = 6,
    LATENT = CHANNELS * HEIGHT * WIDTH,
    ROWS = 4,
    CONDS = 14
};

/* One row to render: which latent, timestep and conditioning. */
typedef struct request {
    int latent, timestep, cond;
} request;

typedef struct fixture {
    open_model open;
    ks_cond *cond[CONDS];
} fixture;

/* The same numbers for the same seed: a linear congruential generator's high bits, in -1..1. */
static void fill(float *out, int count, uint64_t seed)
{
    for (int i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        out[i] = (float)((double)(seed >> 33) / (double)(1u << 30) - 1);
    }
}

static ks_cond *new_cond(ks_model *m, int tokens, uint64_t seed)
{
    ks_error err = KS_ERROR_NONE;
    const ks_unet_config *c = &ks_model_config_of(m)->unet;
    float *context = malloc((size_t)(tokens * c->context_dim) * sizeof *context);
    float *y = malloc((size_t)(c->adm_channels + 1) * sizeof *y);
    assert_true(context && y);
    fill(context, tokens * c->context_dim, seed);
    fill(y, c->adm_channels, seed + 1000);
    ks_cond *cond = ks_cond_new(m, context, tokens, c->adm_channels ? y : NULL, &err);
    if (!cond)
        fail_msg("%s", err.text);
    free(context);
    free(y);
    return cond;
}

/* Conditionings of 5, 12, 19, ... tokens, none longer than 77, so that every call mixes lengths. */
static fixture open_fixture(const char *name, int threads)
{
    char path[512];
    fixture f = {0};
    snprintf(path, sizeof path, TEST_DATA "/%s.safetensors", name);
    f.open = open_model_at(path, threads, 0, NULL);
    for (int i = 0; i < CONDS; i++)
        f.cond[i] = new_cond(f.open.model, 5 + 7 * i % 70, (uint64_t)i);
    return f;
}

static void close_fixture(fixture *f)
{
    for (int i = 0; i < CONDS; i++)
        ks_cond_free(f->cond[i]);
    close_model(&f->open);
}

static void plan(fixture *f, int rows)
{
    ks_error err = KS_ERROR_NONE;
    if (ks_model_plan(f->open.model, rows, HEIGHT, WIDTH, &err) != 0)
        fail_msg("%s", err.text);
}

/* One call of n rows: the requested rows' outputs, host [n, LATENT]. */
static void render(fixture *f, const request *r, int n, float *out)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = f->open.ops;
    ks_net_row row[ROWS] = {0};
    const size_t bytes = LATENT * sizeof(float);
    for (int i = 0; i < n; i++) {
        float latent[LATENT], *x = ops->alloc(ops, bytes, &err),
                              *made = ops->alloc(ops, bytes, &err);
        assert_true(x && made);
        fill(latent, LATENT, 77 + (uint64_t)r[i].latent);
        ops->upload(ops, x, latent, bytes);
        row[i] = (ks_net_row){.x = x,
                              .scale = 0.5f,
                              .timestep = r[i].timestep,
                              .cond = f->cond[r[i].cond],
                              .out = made};
    }
    if (ks_model_rows(f->open.model, row, n, &err) != 0)
        fail_msg("%s", err.text);
    for (int i = 0; i < n; i++)
        ops->download(ops, out + i * LATENT, row[i].out, bytes);
    if (ops->sync(ops, &err) != 0)
        fail_msg("%s", err.text);
    for (int i = 0; i < n; i++) {
        ops->release(ops, (void *)row[i].x);
        ops->release(ops, row[i].out);
    }
}

static void assert_same_row(const float *a, const float *b)
{
    assert_memory_equal(a, b, LATENT * sizeof(float));
}

static const request four[ROWS] = {{0, 999, 0}, {1, 500, 1}, {0, 20, 2}, {2, 500, 0}};

static const char *const names[] = {"tiny-sd15", "tiny-sdxl"};

static void a_row_alone_has_the_bits_it_has_among_others(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        fixture f = open_fixture(names[k], 1);
        float together[ROWS * LATENT], alone[LATENT];
        plan(&f, ROWS);
        render(&f, four, ROWS, together);
        for (int i = 0; i < ROWS; i++) {
            render(&f, &four[i], 1, alone);
            assert_same_row(alone, together + i * LATENT);
        }
        close_fixture(&f);
    }
}

static void permuted_rows_keep_their_bits(void **state)
{
    (void)state;
    static const int order[][ROWS] = {{3, 2, 1, 0}, {1, 3, 0, 2}, {2, 0, 3, 1}};
    for (int k = 0; k < 2; k++) {
        fixture f = open_fixture(names[k], 1);
        float first[ROWS * LATENT], again[ROWS * LATENT];
        plan(&f, ROWS);
        render(&f, four, ROWS, first);
        for (int p = 0; p < 3; p++) {
            request permuted[ROWS];
            for (int i = 0; i < ROWS; i++)
                permuted[i] = four[order[p][i]];
            render(&f, permuted, ROWS, again);
            for (int i = 0; i < ROWS; i++)
                assert_same_row(again + i * LATENT, first + order[p][i] * LATENT);
        }
        close_fixture(&f);
    }
}

static void other_neighbours_threads_and_plans_change_nothing(void **state)
{
    (void)state;
    fixture one = open_fixture("tiny-sdxl", 1), two = open_fixture("tiny-sdxl", 2);
    const request other[3] = {{5, 1, 7}, {6, 700, 9}, {1, 500, 1}};
    float a[ROWS * LATENT], b[ROWS * LATENT];
    plan(&one, ROWS);
    plan(&two, 3);
    render(&one, four, ROWS, a);
    render(&two, other, 3, b);
    assert_same_row(b + 2 * LATENT, a + 1 * LATENT);
    close_fixture(&one);
    close_fixture(&two);
}

static void rows_differ_where_any_of_their_inputs_does(void **state)
{
    (void)state;
    fixture f = open_fixture("tiny-sdxl", 1);
    const request r[ROWS] = {{0, 500, 0}, {1, 500, 0}, {0, 501, 0}, {0, 500, 1}};
    float out[ROWS * LATENT];
    plan(&f, ROWS);
    render(&f, r, ROWS, out);
    for (int i = 1; i < ROWS; i++)
        assert_memory_not_equal(out, out + i * LATENT, LATENT * sizeof(float));
    close_fixture(&f);
}

/* Two rows planned: far fewer slots than the conditionings that take turns here. */
static void conditionings_beyond_the_slots_take_turns_without_a_trace(void **state)
{
    (void)state;
    fixture f = open_fixture("tiny-sdxl", 1);
    float first[CONDS][LATENT], again[2 * LATENT];
    int resident = 0;
    plan(&f, 2);
    for (int i = 0; i < CONDS; i++)
        render(&f, &(request){3, 321, i}, 1, first[i]);
    for (int i = 0; i < CONDS; i++)
        resident += ks_cond_bytes(f.cond[i]) > 0;
    assert_true(resident >= 2 && resident < CONDS);
    for (int i = 0; i < CONDS; i++) {
        int j = (i * 5 + 3) % CONDS;
        render(&f, (request[]){{3, 321, i}, {3, 321, j}}, 2, again);
        assert_same_row(again, first[i]);
        assert_same_row(again + LATENT, first[j]);
        assert_true(ks_cond_bytes(f.cond[i]) > 0);
    }
    close_fixture(&f);
}

static void a_longer_context_than_all_before_changes_no_other_row(void **state)
{
    (void)state;
    fixture f = open_fixture("tiny-sd15", 1);
    float before[LATENT], after[2 * LATENT];
    plan(&f, 2);
    render(&f, &(request){0, 400, 3}, 1, before);
    ks_cond_free(f.cond[4]);
    f.cond[4] = new_cond(f.open.model, 231, 4);
    render(&f, (request[]){{0, 400, 4}, {0, 400, 3}}, 2, after);
    assert_same_row(after + LATENT, before);
    close_fixture(&f);
}

/* As ComfyUI evens out lengths: attention to a context twice over is attention to the context. */
static void a_context_repeated_means_the_same(void **state)
{
    (void)state;
    fixture f = open_fixture("tiny-sd15", 1);
    ks_error err = KS_ERROR_NONE;
    float context[2 * 9 * 32], out[2 * LATENT];
    double difference = 0, size = 0;
    fill(context, 9 * 32, 5);
    memcpy(context + 9 * 32, context, 9 * 32 * sizeof(float));
    for (int i = 0; i < 2; i++) {
        ks_cond_free(f.cond[i]);
        f.cond[i] = ks_cond_new(f.open.model, context, 9 * (i + 1), NULL, &err);
        assert_non_null(f.cond[i]);
    }
    plan(&f, 2);
    render(&f, (request[]){{0, 400, 0}, {0, 400, 1}}, 2, out);
    for (int i = 0; i < LATENT; i++) {
        double d = (double)out[i] - (double)out[LATENT + i];
        difference += d * d;
        size += (double)out[i] * (double)out[i];
    }
    assert_true(difference < 1e-10 * size);
    close_fixture(&f);
}

/* Two rows of a smaller size, host [2, CHANNELS, 3, 5], among calls of the planned one. */
static void render_small(fixture *f, float out[2 * CHANNELS * 15])
{
    enum { SMALL = CHANNELS * 15 };
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = f->open.ops;
    float latent[2 * SMALL], *memory = ops->alloc(ops, 4 * SMALL * sizeof(float), &err);
    assert_non_null(memory);
    fill(latent, 2 * SMALL, 5);
    ops->upload(ops, memory, latent, sizeof latent);
    ks_net_row row[2];
    for (int i = 0; i < 2; i++)
        row[i] = (ks_net_row){.x = memory + i * SMALL,
                              .scale = 0.25f,
                              .timestep = 300 + i,
                              .cond = f->cond[i],
                              .out = memory + (2 + i) * SMALL,
                              .height = 3,
                              .width = 5};
    if (ks_model_rows(f->open.model, row, 2, &err) != 0)
        fail_msg("%s", err.text);
    ops->download(ops, out, memory + 2 * SMALL, 2 * SMALL * sizeof(float));
    row[1].width = 4;
    assert_int_equal(ks_model_rows(f->open.model, row, 2, &err), -1);
    assert_non_null(strstr(err.text, "3 x 5 and 3 x 4"));
    assert_int_equal(ops->sync(ops, &err), 0);
    ops->release(ops, memory);
}

static void calls_of_other_sizes_leave_no_trace(void **state)
{
    (void)state;
    for (int k = 0; k < 2; k++) {
        fixture f = open_fixture(names[k], 1);
        ks_error err = KS_ERROR_NONE;
        float before[ROWS * LATENT], after[ROWS * LATENT];
        float among[2 * CHANNELS * 15], planned[2 * CHANNELS * 15];
        plan(&f, ROWS);
        render(&f, four, ROWS, before);
        render_small(&f, among);
        render(&f, four, ROWS, after);
        assert_memory_equal(after, before, sizeof before);
        assert_int_equal(ks_model_plan(f.open.model, 2, 3, 5, &err), 0);
        render_small(&f, planned);
        assert_memory_equal(planned, among, sizeof among);
        close_fixture(&f);
    }
}

static void calls_that_do_not_fit_the_plan_are_refused(void **state)
{
    (void)state;
    fixture f = open_fixture("tiny-sd15", 1);
    ks_error err = KS_ERROR_NONE;
    ks_net_row row[3] = {0};
    assert_int_equal(ks_model_rows(f.open.model, row, 1, &err), -1);
    assert_non_null(strstr(err.text, "planned"));
    plan(&f, 2);
    err = KS_ERROR_NONE;
    assert_int_equal(ks_model_rows(f.open.model, row, 3, &err), -1);
    assert_non_null(strstr(err.text, "3 rows"));
    assert_int_equal(ks_model_plan(f.open.model, 0, 8, 8, &err), -1);
    err = KS_ERROR_NONE;
    assert_int_equal(ks_model_plan(f.open.model, 4096, 20000, 20000, &err), -1);
    assert_non_null(strstr(err.text, "MiB"));
    render(&f, four, 2, (float[2 * LATENT]){0});
    close_fixture(&f);
}

static void a_vector_is_asked_for_exactly_where_the_model_has_one(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    float numbers[48 * 2] = {0};
    fixture plain = open_fixture("tiny-sd15", 1), with = open_fixture("tiny-sdxl", 1);
    assert_null(ks_cond_new(plain.open.model, numbers, 1, numbers, &err));
    assert_non_null(strstr(err.text, "takes no vector"));
    assert_null(ks_cond_new(with.open.model, numbers, 1, NULL, &err));
    assert_non_null(strstr(err.text, "48"));
    assert_null(ks_cond_new(plain.open.model, numbers, 0, NULL, &err));
    close_fixture(&plain);
    close_fixture(&with);
}

static void parts_that_the_file_lacks_are_an_error(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    fixture f = open_fixture("tiny-sd15", 1);
    ks_safetensors *st = ks_safetensors_open(TEST_DATA "/tiny-sd15.safetensors", &err);
    assert_non_null(st);
    const ks_model_config *c = ks_model_config_of(f.open.model);
    assert_null(ks_model_load(st, c, f.open.ops, NULL, KS_LOAD_TEXT, "nowhere", &err));
    assert_non_null(strstr(err.text, "text encoder"));
    assert_null(ks_model_load(st, c, f.open.ops, NULL, KS_LOAD_VAE, NULL, &err));
    assert_non_null(strstr(err.text, "VAE"));
    float *context;
    int tokens;
    assert_int_equal(ks_model_encode_text(f.open.model, "x", &context, &tokens, &err), -1);
    assert_int_equal(ks_model_decode(f.open.model, context = (float[4]){0}, 1, 1, 1,
                                     (uint8_t[192]){0}, NULL, &err),
                     -1);
    ks_safetensors_close(st);
    close_fixture(&f);
}

static void a_tensor_of_another_shape_is_named(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    fixture f = open_fixture("tiny-sd15", 1);
    ks_safetensors *st = ks_safetensors_open(TEST_DATA "/tiny-sd15.safetensors", &err);
    assert_non_null(st);
    ks_model_config wrong = *ks_model_config_of(f.open.model);
    wrong.unet.context_dim = 40;
    assert_null(ks_model_load(st, &wrong, f.open.ops, NULL, 0, NULL, &err));
    assert_non_null(strstr(err.text, "attn2.to_k.weight"));
    assert_non_null(strstr(err.text, "[32, 40]"));
    wrong = *ks_model_config_of(f.open.model);
    wrong.unet.res_blocks[1] = 2;
    assert_null(ks_model_load(st, &wrong, f.open.ops, NULL, 0, NULL, &err));
    assert_non_null(strstr(err.text, "input_blocks.4.0"));
    ks_safetensors_close(st);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_row_alone_has_the_bits_it_has_among_others),
        cmocka_unit_test(permuted_rows_keep_their_bits),
        cmocka_unit_test(other_neighbours_threads_and_plans_change_nothing),
        cmocka_unit_test(rows_differ_where_any_of_their_inputs_does),
        cmocka_unit_test(conditionings_beyond_the_slots_take_turns_without_a_trace),
        cmocka_unit_test(a_longer_context_than_all_before_changes_no_other_row),
        cmocka_unit_test(a_context_repeated_means_the_same),
        cmocka_unit_test(calls_of_other_sizes_leave_no_trace),
        cmocka_unit_test(calls_that_do_not_fit_the_plan_are_refused),
        cmocka_unit_test(a_vector_is_asked_for_exactly_where_the_model_has_one),
        cmocka_unit_test(parts_that_the_file_lacks_are_an_error),
        cmocka_unit_test(a_tensor_of_another_shape_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
