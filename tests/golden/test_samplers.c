/* Whole sampling runs against ComfyUI: every case of samplers.h5 and features.h5 that has no mask and no area goes
 * through the lane engine on the CPU backend, many at once, and is compared within its own tolerance.
 *
 * Tolerances of cases whose distance from float64 was never measured are their sampler's usual one, which some
 * ill-conditioned cases do not keep themselves: steps2/normal/heun divides a rounding by sigma 0.03 and is 5.5e-5 away
 * from the same run in float64, its tolerance being 2e-5. A case beyond its tolerance is therefore run once more with
 * every network output moved at random by 2.5e-6, which is how far torch's float32 network is from float64 (as is
 * ours). It passes if it is no further from ComfyUI than two programs of that accuracy may be: twice that movement. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "sampling/engine.h"
#include "support/golden.h"
#include "support/open_model.h"

enum { ROWS = 8, MAX_CONDITIONINGS = 8 };

typedef struct named_cond {
    char *name; /* context path, then pooled path */
    ks_cond *cond;
} named_cond;

typedef struct run_case {
    char *path;
    char *sampler, *scheduler, *model;
    ks_guidance positive[MAX_CONDITIONINGS], negative[MAX_CONDITIONINGS];
    ks_call call;
    float *sigmas;
    golden_array latent;
    int64_t *batch_index;
    bool expect_error;
    double tolerance;
    double error;  /* relative L2 */
    float *result; /* kept of cases beyond their tolerance, else NULL */
} run_case;

/* The cases of one file that run on one set of weights and one latent size. */
typedef struct suite {
    int64_t file;
    const char *weights; /* prefix of the cases' model */
    int height, width;   /* 0: collect the sizes only */
    int sizes[16][2], size_count;
    open_model at;
    ks_model_sampling eps, v, zsnr;
    named_cond *cond;
    int conds;
    run_case *item;
    int items, next;
    int skipped, failed, excused;
    bool moved;       /* the run with moved network outputs */
    uint64_t random;
    double *worst; /* of error / tolerance, by sampler */
    int *runs;
} suite;

/* --- reading a case --- */

static bool starts_with(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static const ks_cond *cond_of(suite *s, const char *context, const char *pooled)
{
    char *name = ks_format("%s %s", context, pooled ? pooled : "");
    for (int i = 0; i < s->conds; i++)
        if (strcmp(s->cond[i].name, name) == 0) {
            free(name);
            return s->cond[i].cond;
        }
    golden_array c = golden_read(s->file, context), y = {0};
    if (pooled)
        y = golden_read(s->file, pooled);
    ks_error err = KS_ERROR_NONE;
    ks_cond *cond = ks_cond_new(s->at.model, c.value, (int)c.shape[c.rank - 2], y.value, &err);
    if (!cond)
        fail_msg("%s: %s", name, err.text);
    golden_free(&c);
    golden_free(&y);
    s->cond = ks_realloc(s->cond, (size_t)s->conds + 1, sizeof *s->cond);
    s->cond[s->conds++] = (named_cond){name, cond};
    return cond;
}

static double real_of(ks_json object, const char *key, double otherwise)
{
    ks_json v = ks_json_get(object, key);
    double value = otherwise;
    if (ks_json_exists(v) && ks_json_double(v, &value, NULL) != 0)
        fail_msg("%s is no number", key);
    return value;
}

static const char *text_of(ks_json object, const char *key)
{
    const char *text = NULL;
    ks_json_string(ks_json_get(object, key), &text, NULL);
    return text;
}

/* Whether the conditionings of one side need no area and no mask. */
static bool plain_side(const suite *s, const char *path, const char *side)
{
    char *text = golden_text(s->file, path, side);
    bool plain = !strstr(text, "area") && !strstr(text, "mask");
    free(text);
    return plain;
}

static int read_side(suite *s, const char *path, const char *side, ks_guidance *out)
{
    char *text = golden_text(s->file, path, side);
    ks_json_doc *doc = ks_json_parse(path, text, strlen(text), NULL);
    assert_non_null(doc);
    int n = ks_json_size(ks_json_root(doc));
    assert_true(n <= MAX_CONDITIONINGS);
    for (int i = 0; i < n; i++) {
        ks_json one = ks_json_at(ks_json_root(doc), i);
        const char *context = text_of(one, "context"), *pooled = text_of(one, "pooled");
        out[i] = (ks_guidance){.cond = cond_of(s, context, pooled),
                               .id = ks_hash(context, strlen(context)),
                               .strength = real_of(one, "strength", 1),
                               .start_percent = real_of(one, "start_percent", 0),
                               .end_percent = real_of(one, "end_percent", 1)};
    }
    ks_json_free(doc);
    free(text);
    return n;
}

/* The sigmas as KSampler (Advanced) cuts them. */
static int cut_sigmas(const suite *s, const char *path, float *sigma, int count)
{
    if (!golden_has(s->file, path, "start_step"))
        return count;
    int64_t first = (int64_t)golden_integer(s->file, path, "start_step");
    int64_t last = (int64_t)golden_integer(s->file, path, "last_step");
    if (last < count - 1) {
        count = (int)last + 1;
        if (golden_integer(s->file, path, "force_full_denoise"))
            sigma[last] = 0;
    }
    if (first >= count - 1)
        return 0;
    memmove(sigma, sigma + first, (size_t)(count - first) * sizeof *sigma);
    return count - (int)first;
}

static const ks_model_sampling *model_sampling_of(const suite *s, const char *model)
{
    size_t n = strlen(model);
    if (n > 3 && strcmp(model + n - 3, "-vz") == 0)
        return &s->zsnr;
    return strcmp(model + n - 2, "-v") == 0 ? &s->v : &s->eps;
}

static void read_sigmas(const suite *s, run_case *c, const ks_sampler *sampler)
{
    ks_error err = KS_ERROR_NONE;
    int steps = (int)golden_integer(s->file, c->path, "steps");
    double denoise = golden_real(s->file, c->path, "denoise");
    const ks_model_sampling *ms = model_sampling_of(s, c->model);
    if (ks_schedule(ms, ks_scheduler_find(c->scheduler), steps, denoise, sampler->discard_penultimate, &c->sigmas,
                    &c->call.count, &err) != 0)
        fail_msg("%s: %s", c->path, err.text);
    c->call.model_sampling = ms;
    c->call.count = cut_sigmas(s, c->path, c->sigmas, c->call.count);
    c->call.sigmas = c->sigmas;
}

static void read_latent(const suite *s, run_case *c)
{
    char *path = golden_text(s->file, c->path, "latent");
    c->latent = golden_read(s->file, path);
    free(path);
    c->call.latent = c->latent.value;
    c->call.batch = (int)c->latent.shape[0];
    c->call.channels = (int)c->latent.shape[1];
    c->call.height = (int)c->latent.shape[2];
    c->call.width = (int)c->latent.shape[3];
}

static void read_batch_index(const suite *s, run_case *c)
{
    if (!golden_has(s->file, c->path, "batch_index"))
        return;
    int64_t count;
    c->batch_index = golden_list(s->file, c->path, "batch_index", &count);
    c->call.batch_index = c->batch_index;
}

static void read_case(suite *s, const char *path, const char *model, const ks_sampler *sampler)
{
    s->item = ks_realloc(s->item, (size_t)s->items + 1, sizeof *s->item);
    run_case *c = &s->item[s->items++];
    *c = (run_case){.path = ks_strdup(path), .model = ks_strdup(model)};
    c->sampler = golden_text(s->file, path, "sampler");
    c->scheduler = golden_text(s->file, path, "scheduler");
    char *status = golden_text(s->file, path, "status");
    c->expect_error = strcmp(status, "ok") != 0;
    free(status);
    c->tolerance = c->expect_error ? 0 : golden_real(s->file, path, "suggested_rtol");
    read_latent(s, c);
    read_sigmas(s, c, sampler);
    read_batch_index(s, c);
    c->call.sampler = sampler;
    c->call.cfg = golden_real(s->file, path, "cfg");
    c->call.seed = golden_integer(s->file, path, "seed");
    c->call.latent_scale = ks_model_config_of(s->at.model)->latent_scale_factor;
    c->call.add_noise =
        !(golden_has(s->file, path, "disable_noise") && golden_integer(s->file, path, "disable_noise"));
    c->call.noise_device = (ks_noise_device){.kind = KS_NOISE_CPU};
    c->call.positives = read_side(s, path, "positive", c->positive);
    c->call.negatives = read_side(s, path, "negative", c->negative);
}

static void see_case(void *self, const char *path)
{
    suite *s = self;
    if (starts_with(path, "/inputs"))
        return;
    char *model = golden_text(s->file, path, "model"), *name = golden_text(s->file, path, "sampler");
    int height = (int)golden_integer(s->file, path, "height"), width = (int)golden_integer(s->file, path, "width");
    int sampler = ks_sampler_find(name);
    bool plain = plain_side(s, path, "positive") && plain_side(s, path, "negative") &&
                 !golden_has(s->file, path, "noise_mask");
    bool mine = starts_with(model, s->weights) && plain && sampler >= 0;
    s->skipped += starts_with(model, s->weights) && !mine && s->height == 0;
    if (mine && s->height == 0) {
        int k = 0;
        while (k < s->size_count && (s->sizes[k][0] != height || s->sizes[k][1] != width))
            k++;
        if (k == s->size_count) {
            assert_true(k < 16);
            s->sizes[k][0] = height;
            s->sizes[k][1] = width;
            s->size_count++;
        }
    }
    if (mine && height == s->height && width == s->width)
        read_case(s, path, model, ks_sampler_at(sampler));
    free(model);
    free(name);
}

/* --- the engine's callbacks --- */

static int next_case(void *self, ks_call *call, ks_error *err)
{
    suite *s = self;
    (void)err;
    while (s->moved && s->next < s->items && !s->item[s->next].result)
        s->next++;
    if (s->next == s->items)
        return 0;
    run_case *c = &s->item[s->next++];
    *call = c->call;
    call->positive = c->positive;
    call->negative = c->negative;
    call->tag = c;
    return 1;
}

static void fail_case(suite *s, const run_case *c, const char *why)
{
    print_message("%s: %s\n", c->path, why);
    s->failed++;
}

/* Compares with ComfyUI's output. */
static void judge(suite *s, run_case *c, const float *latent)
{
    char *path = ks_format("%s/output", c->path);
    golden_array want = golden_read(s->file, path);
    c->error = relative_l2(latent, want.value, want.count);
    int sampler = ks_sampler_find(c->sampler);
    s->runs[sampler]++;
    s->worst[sampler] = fmax(s->worst[sampler], c->error / c->tolerance);
    if (!isfinite(c->error)) {
        fail_case(s, c, "not finite");
    } else if (c->error > c->tolerance) {
        c->result = ks_calloc((size_t)want.count, sizeof *c->result);
        memcpy(c->result, latent, (size_t)want.count * sizeof *c->result);
    }
    golden_free(&want);
    free(path);
}

/* The same case with moved network outputs: how much does that matter? */
static void judge_moved(suite *s, const run_case *c, const float *latent)
{
    double movement = relative_l2(latent, c->result, c->latent.count);
    print_message("%s: error %.3g, tolerance %.3g; network errors of 2.5e-6 move it by %.3g\n", c->path, c->error,
                  c->tolerance, movement);
    if (c->error > 2 * movement)
        fail_case(s, c, "beyond its tolerance");
    else
        s->excused++;
}

static int case_done(void *self, const ks_result *result, ks_error *err)
{
    suite *s = self;
    run_case *c = result->tag;
    (void)err;
    if (c->expect_error != (result->error != NULL))
        fail_case(s, c, result->error ? result->error : "an error was expected");
    else if (!result->error && s->moved)
        judge_moved(s, c, result->latent);
    else if (!result->error)
        judge(s, c, result->latent);
    return 0;
}

/* Uniform in [-1, 1): splitmix64. */
static double random_number(suite *s)
{
    uint64_t z = s->random += 0x9e3779b97f4a7c15U;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9U;
    z = (z ^ z >> 27) * 0x94d049bb133111ebU;
    return (double)(int64_t)(z ^ z >> 31) * 0x1p-63;
}

/* Adds noise of 2.5e-6 relative L2 to a row. */
static void move_output(suite *s, float *out)
{
    int n = 4 * s->height * s->width;
    double squares = 0;
    for (int i = 0; i < n; i++)
        squares += (double)out[i] * (double)out[i];
    double scale = 2.5e-6 * sqrt(3 * squares / n);
    for (int i = 0; i < n; i++)
        out[i] += (float)(scale * random_number(s));
}

static int network(void *self, const ks_net_row *rows, int n, ks_error *err)
{
    suite *s = self;
    if (ks_model_rows(s->at.model, rows, n, err) || s->at.ops->sync(s->at.ops, err))
        return -1;
    for (int i = 0; i < n && s->moved; i++)
        move_output(s, rows[i].out); /* the CPU's device memory is the host's */
    return 0;
}

/* --- running --- */

static void free_cases(suite *s)
{
    for (int i = 0; i < s->items; i++) {
        run_case *c = &s->item[i];
        free(c->path);
        free(c->sampler);
        free(c->scheduler);
        free(c->model);
        free(c->sigmas);
        free(c->batch_index);
        free(c->result);
        golden_free(&c->latent);
    }
    s->items = s->next = 0;
}

static void run_engine(suite *s, bool moved)
{
    ks_error err = KS_ERROR_NONE;
    ks_engine *engine = ks_engine_new(s->at.ops, ROWS, 1 << 20, &err);
    ks_engine_calls calls = {.self = s, .next = next_case, .done = case_done, .network = network};
    s->next = 0;
    s->moved = moved;
    if (!engine || ks_engine_run(engine, &calls, &err) != 0)
        fail_msg("%s", err.text);
    ks_engine_stats stats;
    ks_engine_stats_get(engine, &stats);
    print_message("%s %dx%d: %d cases, %d rows in %d calls, %d saved; network %.1f s, other %.1f s\n", s->weights,
                  s->height, s->width, s->items, (int)stats.rows, (int)stats.calls, (int)stats.rows_saved,
                  stats.network_seconds, stats.other_seconds);
    ks_engine_free(engine);
}

static void run_size(suite *s, int height, int width)
{
    ks_error err = KS_ERROR_NONE;
    s->height = height;
    s->width = width;
    golden_walk(s->file, "/", "sampler", see_case, s);
    if (ks_model_plan(s->at.model, ROWS, height, width, &err) != 0)
        fail_msg("%s", err.text);
    run_engine(s, false);
    int beyond = 0;
    for (int i = 0; i < s->items; i++)
        beyond += s->item[i].result != NULL;
    if (beyond > 0)
        run_engine(s, true);
    free_cases(s);
}

/* Runs the file's cases of one model file; returns how many could not be run. */
static int run_weights(suite *s, const char *weights)
{
    char *path = ks_format("%s/%s.safetensors", TEST_DATA, weights);
    s->weights = weights;
    s->height = s->width = s->size_count = s->skipped = 0;
    s->at = open_model_at(path, 0, 0, NULL);
    const ks_model_config *config = ks_model_config_of(s->at.model);
    ks_model_sampling_init(&s->eps, KS_PREDICT_EPS, false, config->linear_start, config->linear_end);
    ks_model_sampling_init(&s->v, KS_PREDICT_V, false, config->linear_start, config->linear_end);
    ks_model_sampling_init(&s->zsnr, KS_PREDICT_V, true, config->linear_start, config->linear_end);
    golden_walk(s->file, "/", "sampler", see_case, s);
    for (int k = 0; k < s->size_count; k++)
        run_size(s, s->sizes[k][0], s->sizes[k][1]);
    for (int i = 0; i < s->conds; i++) {
        ks_cond_free(s->cond[i].cond);
        free(s->cond[i].name);
    }
    s->conds = 0;
    close_model(&s->at);
    free(path);
    return s->skipped;
}

/* Runs a whole file and fails if any case is off. */
static int run_file(const char *name)
{
    suite s = {.file = golden_open(name)};
    s.worst = ks_calloc((size_t)ks_sampler_count(), sizeof *s.worst);
    s.runs = ks_calloc((size_t)ks_sampler_count(), sizeof *s.runs);
    int skipped = run_weights(&s, "tiny-sd15") + run_weights(&s, "tiny-sdxl");
    int runs = 0;
    for (int i = 0; i < ks_sampler_count(); i++) {
        runs += s.runs[i];
        if (s.runs[i])
            print_message("%-32s %3d runs, worst error / tolerance %.2f\n", ks_sampler_at(i)->name, s.runs[i],
                          s.worst[i]);
    }
    print_message("%s: %d runs, %d failed, %d within the network's error only, %d skipped\n", name, runs, s.failed,
                  s.excused, skipped);
    golden_close(s.file);
    free(s.worst);
    free(s.runs);
    free(s.item);
    free(s.cond);
    assert_int_equal(s.failed, 0);
    assert_true(runs > 0);
    assert_true(s.excused <= runs / 100);
    return skipped;
}

static void every_sampler_matches_comfyui_on_every_scheduler_and_model(void **state)
{
    (void)state;
    assert_int_equal(run_file("samplers.h5"), 0);
}

static void features_without_areas_and_masks_match_comfyui(void **state)
{
    (void)state;
    run_file("features.h5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sampler_matches_comfyui_on_every_scheduler_and_model),
        cmocka_unit_test(features_without_areas_and_masks_match_comfyui),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
