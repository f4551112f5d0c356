/* A UNet in parts on the CPU: the whole's outputs at every part, in the same bits, whatever place a row has; and no part
 * holds more than its share. */
#include "support/unet_parts.h"

/* Sums of the same numbers in another order, some hundred times; float32 itself is 2.5e-6 away from float64 here. */
static const double bound = 5e-6;
/* As of the whole network in test_unet. */
static const double golden_bound = 1e-5;
static const double patience = 120;

static ks_ops *open_cpu(int rank, const char *precision, ks_error *err)
{
    (void)rank;
    (void)precision;
    return ks_ops_cpu(1, err);
}

static ks_model_config config_of(const char *path)
{
    ks_error err = KS_ERROR_NONE;
    ks_model_config config = {0};
    ks_safetensors *st = ks_safetensors_open(path, &err);
    if (!st || ks_model_detect(st, &config, &err) != 0)
        fail_msg("%s", err.text);
    ks_safetensors_close(st);
    return config;
}

static void check_share(const unet_parts *t, const ks_model_config *c, int parts)
{
    const double promised = ks_unet_weight_share(&c->unet, parts) * (double)c->parameters;
    assert_true(fabs(t->elements[0] - promised) < 0.5);
    for (int part = 1; part < parts; part++)
        assert_true(t->elements[part] <= promised);
}

static void check_model(const char *name)
{
    unet_parts t = unet_parts_new(name, "fp32", open_cpu);
    const ks_model_config config = config_of(t.path);
    unet_parts_run(&t, 1, patience);
    float *whole = unet_parts_copy(&t);
    assert_true(t.elements[0] == (double)config.parameters);
    for (int parts = 2; parts <= PARTS_MOST; parts *= 2) {
        unet_parts_run(&t, parts, patience);
        double error = unet_parts_error(&t, whole), golden = unet_parts_error(&t, NULL);
        if (!(error <= bound && golden <= golden_bound))
            fail_msg("%s in %d parts: %g from the whole, %g from the reference", name, parts, error, golden);
        check_share(&t, &config, parts);
    }
    free(whole);
    unet_parts_free(&t);
}

static void parts_of_sd15_make_the_whole(void **state)
{
    (void)state;
    check_model("tiny-sd15");
}

static void parts_of_sdxl_make_the_whole(void **state)
{
    (void)state;
    check_model("tiny-sdxl");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_of_sd15_make_the_whole),
        cmocka_unit_test(parts_of_sdxl_make_the_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
