/* Output stages read what others have written into slices of one tensor, or copies of it side by side: the same bits either
 * way, and no copies with a backend that has slices. */
#include <stdlib.h>

#include "support/open_model.h"

enum { TOKENS = 5, ROWS = 2 };

static ks_ops real;
static int copies;

static void count_concat(ks_ops *ops, ks_act y, ks_act a, ks_act b)
{
    copies++;
    real.concat(ops, y, a, b);
}

typedef struct place {
    const char *path;
    int height, width;
} place;

static const place places[] = {
    {TEST_DATA "/tiny-sd15.safetensors", 16, 16},
    {TEST_DATA "/tiny-sdxl.safetensors", 9, 15},
};
enum { PLACES = sizeof places / sizeof *places };

static float *some_numbers(size_t n, uint32_t seed)
{
    float *values = malloc(n * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 8) * 0x1p-23f - 1.0f;
    }
    return values;
}

/* The network's output on ROWS rows; free() it. */
static float *forward(const place *at, bool slices)
{
    ks_error err = KS_ERROR_NONE;
    open_model o = open_model_at(at->path, 2, 0, NULL);
    const ks_unet_config *c = &ks_model_config_of(o.model)->unet;
    const size_t cells = (size_t)(ROWS * 4 * at->height * at->width);
    float *x = some_numbers(cells, 1), *out = calloc(cells, sizeof *out);
    float *context = some_numbers((size_t)(TOKENS * c->context_dim), 2);
    float *y = some_numbers((size_t)c->adm_channels + 1, 3);
    assert_non_null(out);
    ks_cond *cond = ks_cond_new(o.model, context, TOKENS, c->adm_channels ? y : NULL, &err);
    assert_non_null(cond);
    real = *o.ops;
    o.ops->concat = count_concat;
    o.ops->slices = slices;
    copies = 0;
    if (ks_model_forward(o.model, x, (int[ROWS]){500, 20}, (ks_cond *[ROWS]){cond, cond}, ROWS, at->height, at->width, out,
                         &err) != 0)
        fail_msg("%s", err.text);
    ks_cond_free(cond);
    free(x);
    free(context);
    free(y);
    close_model(&o);
    return out;
}

static void slices_give_the_bits_of_copies(void **state)
{
    (void)state;
    for (int i = 0; i < PLACES; i++) {
        float *copied = forward(&places[i], false);
        assert_true(copies > 0);
        float *sliced = forward(&places[i], true);
        assert_int_equal(copies, 0);
        assert_memory_equal(copied, sliced, (size_t)(ROWS * 4 * places[i].height * places[i].width) * sizeof *copied);
        free(copied);
        free(sliced);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_give_the_bits_of_copies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
