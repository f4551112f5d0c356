/* Latents so large that a draw of torch's CUDA generator takes several rounds of its threads, through whole runs: the
 * Gaussian cases of cuda.h5, whose denoiser has a closed form (toy_network.h). Of each output the file keeps some
 * elements and the root mean square. Noise is made by the engine, then by the device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "support/golden.h"
#include "support/host_ops.h"
#include "unit/sampling/toy_network.h"

static const struct ks_cond around_two = {.mean = 2};

typedef struct large_run {
    int64_t file;
    const char *path;
    ks_call call;
    toy_network network;
    bool started, judged;
} large_run;

static int next(void *self, ks_call *call, ks_error *err)
{
    large_run *r = self;
    (void)err;
    if (r->started)
        return 0;
    r->started = true;
    *call = r->call;
    return 1;
}

static int network(void *self, const ks_net_row *rows, int n, ks_error *err)
{
    return toy_rows(&((large_run *)self)->network, rows, n, err);
}

/* The kept elements within the case's tolerance, and all of them in their root mean square. */
static void judge(const large_run *r, const float *latent)
{
    char *output = ks_format("%s/output", r->path), *index_path = ks_format("%s/index", r->path);
    golden_array want = golden_read(r->file, output);
    int64_t count;
    int64_t *index = golden_integers(r->file, index_path, &count);
    assert_int_equal(count, want.count);
    float *got = ks_calloc((size_t)count, sizeof *got);
    for (int64_t i = 0; i < count; i++) {
        assert_true(index[i] >= 0 && index[i] < r->network.floats);
        got[i] = latent[index[i]];
    }
    double sum = 0, error = relative_l2(got, want.value, count);
    for (int64_t i = 0; i < r->network.floats; i++)
        sum += (double)latent[i] * (double)latent[i];
    double rms = golden_real(r->file, r->path, "output_rms"),
           tolerance = golden_real(r->file, r->path, "suggested_rtol");
    print_message("%s: error %.3g, tolerance %.3g\n", r->path, error, tolerance);
    assert_true(error <= tolerance);
    assert_true(fabs(sqrt(sum / (double)r->network.floats) / rms - 1) <= tolerance);
    free(got);
    free(index);
    golden_free(&want);
    free(output);
    free(index_path);
}

static int done(void *self, const ks_result *result, ks_error *err)
{
    large_run *r = self;
    (void)err;
    if (result->error)
        fail_msg("%s: %s", r->path, result->error);
    judge(r, result->latent);
    r->judged = true;
    return 0;
}

static void run_engine(large_run *r, bool drawn)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = host_ops_new();
    if (drawn)
        host_ops_draw_noise(ops);
    r->started = r->judged = false;
    ks_engine *engine = ks_engine_new(ops, 1, 0, &err);
    ks_engine_calls calls = {.self = r, .next = next, .done = done, .network = network};
    if (!engine || ks_engine_run(engine, &calls, &err) != 0)
        fail_msg("%s: %s", r->path, err.text);
    assert_true(r->judged);
    ks_engine_free(engine);
    ops->free(ops);
}

/* An attribute's text, which names a data set, read. */
static golden_array read_named(int64_t file, const char *path, const char *attribute)
{
    char *name = golden_text(file, path, attribute);
    golden_array a = golden_read(file, name);
    free(name);
    return a;
}

static void run_case(int64_t file, const char *path)
{
    ks_error err = KS_ERROR_NONE;
    char *device = golden_text(file, path, "noise_device"), *sampler = golden_text(file, path, "sampler");
    char *sigmas_path = ks_format("%s/sigmas", path);
    golden_array latent = read_named(file, path, "latent"), sigmas = golden_read(file, sigmas_path);
    ks_model_sampling ms;
    ks_model_sampling_init(&ms, KS_PREDICT_EPS, false, 0.00085, 0.012);
    ks_guidance side = toy_guidance(&around_two);
    large_run r = {.file = file, .path = path, .network = {.floats = latent.count}};
    r.call = (ks_call){.sampler = toy_sampler(sampler),
                       .model_sampling = &ms,
                       .sigmas = sigmas.value,
                       .count = (int)sigmas.count,
                       .cfg = golden_real(file, path, "cfg"),
                       .seed = golden_integer(file, path, "seed"),
                       .batch = (int)latent.shape[0],
                       .channels = (int)latent.shape[1],
                       .height = (int)latent.shape[2],
                       .width = (int)latent.shape[3],
                       .latent_scale = 0.18215,
                       .add_noise = true,
                       .positives = 1,
                       .negatives = 1,
                       .positive = &side,
                       .negative = &side};
    assert_int_equal(ks_noise_device_parse(device, &r.call.noise_device, &err), 0);
    assert_true(latent.count > 8192 * r.call.noise_device.multiprocessors); /* several rounds */
    run_engine(&r, false);
    run_engine(&r, true);
    golden_free(&latent);
    golden_free(&sigmas);
    free(device);
    free(sampler);
    free(sigmas_path);
}

typedef struct walk {
    int64_t file;
    int runs;
} walk;

static void see_case(void *self, const char *path)
{
    walk *w = self;
    char *model = golden_text(w->file, path, "model");
    if (strcmp(model, "gaussian") == 0) {
        run_case(w->file, path);
        w->runs++;
    }
    free(model);
}

static void large_draws_are_those_of_the_gpu(void **state)
{
    (void)state;
    walk w = {.file = golden_open("cuda.h5")};
    golden_walk(w.file, "/", "sampler", see_case, &w);
    golden_close(w.file);
    assert_true(w.runs > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(large_draws_are_those_of_the_gpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
