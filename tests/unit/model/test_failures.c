/* A model on a device that runs out of memory at some moment: an error each time, and nothing left
 * behind (which the sanitizers see). */
#include <stdlib.h>
#include <string.h>

#include "support/open_model.h"

static ks_ops real;
static int left; /* allocations that still succeed */

static bool refuse(ks_error *err)
{
    if (left-- > 0)
        return false;
    ks_error_set(err, "the device is full");
    return true;
}

static void *scarce_alloc(ks_ops *ops, size_t bytes, ks_error *err)
{
    return refuse(err) ? NULL : real.alloc(ops, bytes, err);
}

static ks_weight *scarce_weight(ks_ops *ops, ks_weight_use use, int parts, const ks_view *w, const ks_view *bias,
                                ks_error *err)
{
    return refuse(err) ? NULL : real.weight(ops, use, parts, w, bias, err);
}

static ks_weight *scarce_norm_weight(ks_ops *ops, const ks_view *gamma, const ks_view *beta,
                                     ks_error *err)
{
    return refuse(err) ? NULL : real.norm_weight(ops, gamma, beta, err);
}

static ks_weight *scarce_table(ks_ops *ops, const ks_view *table, ks_error *err)
{
    return refuse(err) ? NULL : real.table(ops, table, err);
}

/* Text, network and picture of a loaded model. */
static int use(ks_model *m, ks_error *err)
{
    enum { SIDE = 4, LATENT = 4 * SIDE * SIDE };
    static float x[LATENT], out[LATENT];
    static uint8_t rgb[3 * 64 * SIDE * SIDE];
    float *context = NULL;
    int tokens, result = -1;
    ks_cond *cond = NULL;
    if (ks_model_encode_text(m, "a (red) circle", &context, &tokens, err) == 0)
        cond = ks_cond_new(m, context, tokens, NULL, err);
    if (cond && ks_model_forward(m, x, &(int){10}, &cond, 1, SIDE, SIDE, out, err) == 0)
        result = ks_model_decode(m, x, 1, SIDE, SIDE, rgb, NULL, err);
    ks_cond_free(cond);
    free(context);
    return result;
}

static void a_full_device_is_an_error_and_leaves_nothing(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_model_config config;
    ks_ops *ops = ks_ops_cpu(1, &err);
    ks_safetensors *st = ks_safetensors_open(TEST_ROOT "/jobs/demo/shapes-fp16.safetensors", &err);
    assert_true(ops && st);
    assert_int_equal(ks_model_detect(st, &config, &err), 0);
    real = *ops;
    ops->alloc = scarce_alloc;
    ops->weight = scarce_weight;
    ops->norm_weight = scarce_norm_weight;
    ops->table = scarce_table;
    int loads = 0, uses = 0, result = -1;
    for (int allowed = 0; result != 0; allowed += allowed < 200 ? 23 : 1) {
        err = KS_ERROR_NONE;
        left = allowed;
        ks_model *m = ks_model_load(st, &config, ops, NULL, KS_LOAD_TEXT | KS_LOAD_VAE,
                                    TEST_ROOT "/jobs/demo/tokenizer", &err);
        result = m ? use(m, &err) : -1;
        loads += !m;
        uses += m && result != 0;
        if (result != 0)
            assert_non_null(strstr(err.text, "the device is full"));
        ks_model_free(m);
    }
    assert_true(loads >= 5 && uses >= 8);
    ks_safetensors_close(st);
    ops->free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_device_is_an_error_and_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
