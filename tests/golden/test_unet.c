/* The UNet against ComfyUI's: raw outputs, denoised estimates, embeddings. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/schedule.h"
#include "support/golden.h"
#include "support/open_model.h"

/* torch's own float32 is 2.5e-6 away from float64 on these. */
static const double bound = 1e-5;

static int64_t file;

typedef struct reference_model {
    const char *name, *weights;
    ks_prediction prediction;
    bool zsnr;
    open_model open;
    int cases;
} reference_model;

static reference_model models[] = {
    {.name = "tiny-sd15", .weights = "tiny-sd15"},
    {.name = "tiny-sd15-v", .weights = "tiny-sd15", .prediction = KS_PREDICT_V},
    {.name = "tiny-sd15-vz", .weights = "tiny-sd15", .prediction = KS_PREDICT_V, .zsnr = true},
    {.name = "tiny-sdxl", .weights = "tiny-sdxl"},
};
enum { MODELS = sizeof models / sizeof *models };

static int open_all(void **state)
{
    (void)state;
    file = golden_open("unet.h5");
    for (int i = 0; i < MODELS; i++) {
        char path[512];
        snprintf(path, sizeof path, TEST_DATA "/%s.safetensors", models[i].weights);
        models[i].open = open_model_at(path, 1, 0, NULL);
    }
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++)
        close_model(&models[i].open);
    golden_close(file);
    return 0;
}

static golden_array member(const char *group, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", group, name);
    return golden_read(file, path);
}

/* The network's raw output on a case's context (and y) for scaled input x; free() it. */
static float *forward(ks_model *m, const char *group, const float *x, const int64_t *shape,
                      const int *timesteps)
{
    enum { ROWS = 8 };
    ks_error err = KS_ERROR_NONE;
    ks_cond *cond[ROWS] = {0};
    char name[512];
    int n = (int)shape[0];
    assert_true(n <= ROWS);
    golden_array context = member(group, "context"), y = {0};
    snprintf(name, sizeof name, "%s/y", group);
    if (golden_exists(file, name))
        y = golden_read(file, name);
    for (int i = 0; i < n; i++) {
        const float *vector = y.value ? y.value + i * y.shape[1] : NULL;
        cond[i] = ks_cond_new(m, context.value + i * context.shape[1] * context.shape[2],
                              (int)context.shape[1], vector, &err);
        assert_non_null(cond[i]);
    }
    float *out = malloc((size_t)(shape[0] * shape[1] * shape[2] * shape[3]) * sizeof *out);
    assert_non_null(out);
    if (ks_model_forward(m, x, timesteps, cond, n, (int)shape[2], (int)shape[3], out, &err) != 0)
        fail_msg("%s: %s", group, err.text);
    for (int i = 0; i < n; i++)
        ks_cond_free(cond[i]);
    golden_free(&context);
    golden_free(&y);
    return out;
}

static void check_forward(void *self, const char *group)
{
    reference_model *r = self;
    golden_array x = member(group, "x"), eps = member(group, "eps");
    golden_array timesteps = member(group, "timesteps");
    int t[8];
    for (int64_t i = 0; i < timesteps.count && i < 8; i++)
        t[i] = (int)timesteps.value[i];
    float *out = forward(r->open.model, group, x.value, x.shape, t);
    double error = relative_l2(out, eps.value, eps.count);
    if (!(error <= bound))
        fail_msg("%s: relative L2 error %g", group, error);
    r->cases++;
    free(out);
    golden_free(&x);
    golden_free(&eps);
    golden_free(&timesteps);
}

static void raw_outputs_match(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        char path[128];
        snprintf(path, sizeof path, "/%s/forward", models[i].name);
        models[i].cases = 0;
        if (strcmp(models[i].name, models[i].weights) != 0)
            continue;
        golden_walk(file, path, "eps", check_forward, &models[i]);
        assert_true(models[i].cases > 0);
    }
}

/* x - sigma * eps, or the same from v; in float64 as a caller's lincomb does it. */
static void to_denoised(ks_prediction prediction, float *out, const float *x, double sigma,
                        int64_t n)
{
    double keep = prediction == KS_PREDICT_V ? 1 / (sigma * sigma + 1) : 1;
    double take = prediction == KS_PREDICT_V ? sigma / sqrt(sigma * sigma + 1) : sigma;
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(keep * x[i] - take * out[i]);
}

static void check_denoised(void *self, const char *group)
{
    reference_model *r = self;
    ks_model_sampling ms;
    int t[8];
    ks_model_sampling_init(&ms, r->prediction, r->zsnr, 0.00085, 0.012);
    golden_array x = member(group, "x"), sigma = member(group, "sigma");
    golden_array denoised = member(group, "denoised");
    int64_t size = x.count / x.shape[0];
    float *scaled = malloc((size_t)x.count * sizeof *scaled);
    assert_non_null(scaled);
    for (int64_t i = 0; i < x.count; i++) {
        double s = sigma.value[i / size];
        scaled[i] = (float)(x.value[i] / sqrt(s * s + 1));
    }
    for (int64_t i = 0; i < x.shape[0] && i < 8; i++) {
        t[i] = ks_timestep_of_sigma(&ms, sigma.value[i]);
        assert_int_equal(t[i], (int)golden_real(file, group, "timestep"));
    }
    float *out = forward(r->open.model, group, scaled, x.shape, t);
    for (int64_t i = 0; i < x.shape[0]; i++)
        to_denoised(r->prediction, out + i * size, x.value + i * size, sigma.value[i], size);
    double error = relative_l2(out, denoised.value, denoised.count);
    if (!(error <= bound))
        fail_msg("%s: relative L2 error %g", group, error);
    r->cases++;
    free(out);
    free(scaled);
    golden_free(&x);
    golden_free(&sigma);
    golden_free(&denoised);
}

static void denoised_estimates_match(void **state)
{
    (void)state;
    for (int i = 0; i < MODELS; i++) {
        char path[128];
        snprintf(path, sizeof path, "/%s/denoised", models[i].name);
        models[i].cases = 0;
        golden_walk(file, path, "denoised", check_denoised, &models[i]);
        assert_true(models[i].cases > 0);
    }
}

/* A last bit of a float32 frequency is 6e-8 of an angle that goes up to a thousand, or to 1216. */
static const double angle_bound = 1e-4;

static void check_timesteps(ks_ops *ops, const golden_array *t, int dim)
{
    ks_error err = KS_ERROR_NONE;
    char path[64];
    snprintf(path, sizeof path, "/timestep_embedding/dim%d", dim);
    golden_array expected = golden_read(file, path);
    size_t bytes = (size_t)expected.count * sizeof(float);
    float *out = malloc(bytes), *device_t = ops->alloc(ops, (size_t)t->count * sizeof(float), &err);
    float *device = ops->alloc(ops, bytes, &err);
    assert_true(out && device_t && device);
    size_t mark = ops->mark(ops);
    ks_act y = ops->act(ops, (int)t->count, 1, 1, dim);
    ops->upload(ops, device_t, t->value, (size_t)t->count * sizeof(float));
    ops->timestep_embedding(ops, y, device_t);
    ops->to_floats(ops, device, y);
    ops->download(ops, out, device, bytes);
    ops->unwind(ops, mark);
    assert_int_equal(ops->sync(ops, &err), 0);
    double difference = largest_difference(out, expected.value, expected.count);
    if (!(difference <= angle_bound))
        fail_msg("%s: off by %g", path, difference);
    ops->release(ops, device);
    ops->release(ops, device_t);
    free(out);
    golden_free(&expected);
}

static void timestep_embeddings_match(void **state)
{
    (void)state;
    golden_array t = golden_read(file, "/timestep_embedding/t");
    const int dims[] = {32, 256, 320};
    for (int i = 0; i < 3; i++)
        check_timesteps(models[0].open.ops, &t, dims[i]);
    golden_free(&t);
}

static int size_attribute(const char *group, const char *name, int otherwise)
{
    return golden_has(file, group, name) ? (int)golden_integer(file, group, name) : otherwise;
}

static void check_vector(void *self, const char *group)
{
    golden_array pooled = member(group, "pooled"), y = member(group, "y");
    int height = size_attribute(group, "height", 0), width = size_attribute(group, "width", 0);
    const int size[6] = {
        height,
        width,
        size_attribute(group, "crop_h", 0),
        size_attribute(group, "crop_w", 0),
        size_attribute(group, "target_height", height),
        size_attribute(group, "target_width", width),
    };
    float *out = malloc((size_t)y.count * sizeof *out);
    assert_non_null(out);
    assert_int_equal(y.count, pooled.count + 6 * 256);
    ks_sdxl_vector(pooled.value, (int)pooled.count, size, out);
    assert_memory_equal(out, pooled.value, (size_t)pooled.count * sizeof *out);
    double difference = largest_difference(out, y.value, y.count);
    if (!(difference <= angle_bound))
        fail_msg("%s: off by %g", group, difference);
    ++*(int *)self;
    free(out);
    golden_free(&pooled);
    golden_free(&y);
}

static void sdxl_size_vectors_match(void **state)
{
    (void)state;
    int cases = 0;
    golden_walk(file, "/sdxl_adm", "pooled", check_vector, &cases);
    assert_int_equal(cases, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(raw_outputs_match),
        cmocka_unit_test(denoised_estimates_match),
        cmocka_unit_test(timestep_embeddings_match),
        cmocka_unit_test(sdxl_size_vectors_match),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
