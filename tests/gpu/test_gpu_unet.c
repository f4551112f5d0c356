/* The golden UNets on the GPU. float32 must agree as the CPU backend does; the errors of fp16 and
 * bf16 are those of some hundred roundings one after another. */
#include "gpu.h"

#include <math.h>

#include "support/golden.h"
#include "support/open_model.h"

static const struct {
    const char *precision;
    double bound;
} expected[] = {
    {"fp32", 1e-4}, /* a hundred operations at 1e-6 */
    /* Errors of independent roundings add as squares: about 300 of u / sqrt(3) each, through
     * residual sums that keep their size. */
    {"fp16", 16 * 0x1p-11},
    {"bf16", 16 * 0x1p-8},
};

typedef struct trial {
    int64_t file;
    ks_model *model;
    const char *precision;
    double bound;
    int cases, wrong;
} trial;

static golden_array member(const trial *t, const char *group, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", group, name);
    return golden_read(t->file, path);
}

enum { ROWS = 8 };

/* A case's conditionings; returns their number. */
static int conditionings(const trial *t, const char *group, int n, ks_cond **cond)
{
    char name[512];
    ks_error err = KS_ERROR_NONE;
    golden_array context = member(t, group, "context"), y = {0};
    snprintf(name, sizeof name, "%s/y", group);
    if (golden_exists(t->file, name))
        y = golden_read(t->file, name);
    assert_in_range(n, 1, ROWS);
    for (int i = 0; i < n; i++) {
        cond[i] = ks_cond_new(t->model, context.value + i * context.shape[1] * context.shape[2],
                              (int)context.shape[1], y.value ? y.value + i * y.shape[1] : NULL,
                              &err);
        if (!cond[i])
            fail_msg("%s: %s", group, err.text);
    }
    golden_free(&context);
    golden_free(&y);
    return n;
}

static void check_forward(void *self, const char *group)
{
    trial *t = self;
    ks_error err = KS_ERROR_NONE;
    ks_cond *cond[ROWS];
    int timesteps[ROWS];
    golden_array x = member(t, group, "x"), eps = member(t, group, "eps");
    golden_array steps = member(t, group, "timesteps");
    int n = conditionings(t, group, (int)x.shape[0], cond);
    for (int i = 0; i < n; i++)
        timesteps[i] = (int)steps.value[i];
    float *out = malloc((size_t)eps.count * sizeof *out);
    assert_non_null(out);
    for (int again = 0; again < 2; again++) { /* as it is, and from its graph */
        if (ks_model_forward(t->model, x.value, timesteps, cond, n, (int)x.shape[2],
                             (int)x.shape[3], out, &err) != 0)
            fail_msg("%s: %s", group, err.text);
        double error = relative_l2(out, eps.value, eps.count);
        bool good = error <= t->bound;
        if (!again)
            printf("%s %-40s %9.2e (bound %.2e)%s\n", t->precision, group, error, t->bound,
                   good ? "" : "  WRONG");
        t->wrong += !good;
    }
    t->cases++;
    for (int i = 0; i < n; i++)
        ks_cond_free(cond[i]);
    free(out);
    golden_free(&x);
    golden_free(&eps);
    golden_free(&steps);
}

static open_model open_on_gpu(const char *name, const char *precision)
{
    char path[512];
    ks_error err = KS_ERROR_NONE;
    ks_model_config config;
    snprintf(path, sizeof path, TEST_DATA "/%s.safetensors", name);
    ks_safetensors *st = ks_safetensors_open(path, &err);
    if (!st || ks_model_detect(st, &config, &err) != 0)
        fail_msg("%s", err.text);
    open_model o = {.ops = new_gpu(precision)};
    o.model = ks_model_load(st, &config, o.ops, NULL, 0, NULL, &err);
    if (!o.model)
        fail_msg("%s", err.text);
    ks_safetensors_close(st);
    return o;
}

static void golden_outputs_match(void **state)
{
    (void)state;
    static const char *const names[] = {"tiny-sd15", "tiny-sdxl"};
    int wrong = 0;
    int64_t file = golden_open("unet.h5");
    for (size_t p = 0; p < sizeof expected / sizeof *expected; p++)
        for (size_t m = 0; m < sizeof names / sizeof *names; m++) {
            char path[128];
            open_model open = open_on_gpu(names[m], expected[p].precision);
            trial t = {file, open.model, expected[p].precision, expected[p].bound, 0, 0};
            snprintf(path, sizeof path, "/%s/forward", names[m]);
            golden_walk(file, path, "eps", check_forward, &t);
            assert_true(t.cases > 0);
            wrong += t.wrong;
            close_model(&open);
        }
    golden_close(file);
    assert_int_equal(wrong, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_outputs_match),
    };
    if (ks_cuda_device_count() == 0)
        return SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
