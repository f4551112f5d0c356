/* Calls on a backend that keeps work: one key always stands for the same operations on the same
 * addresses, every planned row is computed, and the rows that only fill a call leave no trace. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "support/open_model.h"

/* The backend's own operations, and what has been queued since a replay began. */
static struct {
    ks_ops real;
    uint64_t digest, key[8], queued[8], last_key;
    int keys, rows;
} watch;

static void note(const void *data, size_t size)
{
    ks_hash128 hash = ks_hash(data, size);
    uint64_t value;
    memcpy(&value, hash.byte, sizeof value);
    watch.digest = watch.digest * 31 + value;
}

static void watched_conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    const ks_act acts[] = {y, x, how->row_bias, how->residual};
    const int numbers[] = {how->stride, how->pad, how->upsample};
    note(acts, sizeof acts);
    note(numbers, sizeof numbers);
    note(&w, sizeof w);
    watch.rows = y.n;
    watch.real.conv(ops, y, x, w, how);
}

static void watched_linear(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, ks_activation a,
                           ks_act residual)
{
    const ks_act acts[] = {y, x, residual};
    note(acts, sizeof acts);
    note(&w, sizeof w);
    watch.real.linear(ops, y, x, w, a, residual);
}

static void watched_attention(ks_ops *ops, ks_act y, ks_act q, ks_act k, ks_act v,
                              const ks_attention *how)
{
    const ks_act acts[] = {y, q, k, v};
    const void *const pointers[] = {how->kv_row, how->kv_len};
    note(acts, sizeof acts);
    note(pointers, sizeof pointers);
    watch.real.attention(ops, y, q, k, v, how);
}

static void watched_from_latents(ks_ops *ops, ks_act y, const float *const *x, const float *scale)
{
    const void *const pointers[] = {y.data, x, scale};
    note(pointers, sizeof pointers);
    watch.real.from_latents(ops, y, x, scale);
}

static void watched_to_latents(ks_ops *ops, float *const *out, ks_act x)
{
    const void *const pointers[] = {x.data, out};
    note(pointers, sizeof pointers);
    watch.real.to_latents(ops, out, x);
}

static void refused_upload(ks_ops *ops, void *device, const void *host, size_t bytes)
{
    (void)ops, (void)device, (void)host, (void)bytes;
    fail_msg("an upload within work that is kept");
}

/* Runs the work each time, as if it were kept. */
static int replay(ks_ops *ops, uint64_t key, void (*work)(void *arg), void *arg, ks_error *err)
{
    (void)err;
    void (*upload)(ks_ops *, void *, const void *, size_t) = ops->upload;
    watch.digest = 0;
    ops->upload = refused_upload;
    work(arg);
    ops->upload = upload;
    watch.last_key = key;
    for (int i = 0; i < watch.keys; i++)
        if (watch.key[i] == key) {
            assert_true(watch.queued[i] == watch.digest);
            return 0;
        }
    assert_in_range(watch.keys, 0, 7);
    watch.key[watch.keys] = key;
    watch.queued[watch.keys++] = watch.digest;
    return 0;
}

static void watch_ops(ks_ops *ops)
{
    memset(&watch, 0, sizeof watch);
    watch.real = *ops;
    ops->conv = watched_conv;
    ops->linear = watched_linear;
    ops->attention = watched_attention;
    ops->from_latents = watched_from_latents;
    ops->to_latents = watched_to_latents;
    ops->replay = replay;
}

enum { SIDE = 6, ITEM = 4 * SIDE * SIDE, CONDS = 9 };

typedef struct fixture {
    open_model open;
    ks_cond *cond[CONDS];
} fixture;

static float number(int i)
{
    return (float)(((unsigned)i * 2654435761u >> 16) % 256) / 128.0f - 1.0f;
}

static ks_cond *new_cond(ks_model *m, int which, int tokens)
{
    const int width = ks_model_config_of(m)->unet.context_dim;
    float *context = malloc((size_t)(tokens * width) * sizeof *context);
    ks_error err = KS_ERROR_NONE;
    assert_non_null(context);
    for (int i = 0; i < tokens * width; i++)
        context[i] = number(i + 7919 * which);
    ks_cond *c = ks_cond_new(m, context, tokens, NULL, &err);
    if (!c)
        fail_msg("%s", err.text);
    free(context);
    return c;
}

static fixture open_fixture(void)
{
    fixture f = {.open = open_model_at(TEST_DATA "/tiny-sd15.safetensors", 1, 0, NULL)};
    for (int i = 0; i < CONDS; i++)
        f.cond[i] = new_cond(f.open.model, i, 77);
    return f;
}

static void close_fixture(fixture *f)
{
    for (int i = 0; i < CONDS; i++)
        ks_cond_free(f->cond[i]);
    close_model(&f->open);
}

/* Rows first, first + 1, ... through a call of n rows. */
static void call(fixture *f, int first, int n, float *x, float *out)
{
    ks_net_row row[8];
    ks_error err = KS_ERROR_NONE;
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < ITEM; k++)
            x[i * ITEM + k] = number(k + 104729 * (first + i));
        row[i] = (ks_net_row){.x = x + i * ITEM,
                              .scale = 0.5f,
                              .timestep = 100 * (first + i),
                              .cond = f->cond[first + i],
                              .out = out + i * ITEM};
    }
    if (ks_model_rows(f->open.model, row, n, &err) != 0)
        fail_msg("%s", err.text);
}

static void plan(fixture *f, int rows)
{
    ks_error err = KS_ERROR_NONE;
    if (ks_model_plan(f->open.model, rows, SIDE, SIDE, &err) != 0)
        fail_msg("%s", err.text);
}

static void kept_calls_give_what_plain_calls_give(void **state)
{
    (void)state;
    float x[4 * ITEM], plain[CONDS * ITEM], kept[4 * ITEM];
    fixture f = open_fixture();
    plan(&f, 3);
    for (int i = 0; i + 3 <= CONDS; i += 3)
        call(&f, i, 3, x, plain + i * ITEM);
    watch_ops(f.open.ops);
    for (int first = 0; first < CONDS; first++) /* other conditionings in other slots each time */
        for (int n = 1; n <= 3 && first + n <= CONDS; n++) {
            kept[n * ITEM] = 123;
            call(&f, first, n, x, kept);
            assert_memory_equal(kept, plain + first * ITEM, (size_t)(n * ITEM) * sizeof *kept);
            assert_true(kept[n * ITEM] == 123);
            assert_int_equal(watch.rows, 3);
        }
    assert_int_equal(watch.keys, 1);
    close_fixture(&f);
}

static void another_plan_has_another_key(void **state)
{
    (void)state;
    float x[4 * ITEM], out[4 * ITEM];
    fixture f = open_fixture();
    watch_ops(f.open.ops);
    plan(&f, 4);
    call(&f, 0, 2, x, out);
    uint64_t first = watch.last_key;
    plan(&f, 2);
    call(&f, 0, 2, x, out);
    assert_true(watch.last_key != first);
    plan(&f, 4);
    call(&f, 3, 4, x, out);
    assert_true(watch.last_key == first);
    ks_cond *longer = new_cond(f.open.model, 50, 154); /* the slots move */
    ks_cond_free(f.cond[0]);
    f.cond[0] = longer;
    call(&f, 0, 3, x, out);
    assert_true(watch.last_key != first);
    close_fixture(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kept_calls_give_what_plain_calls_give),
        cmocka_unit_test(another_plan_has_another_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
