/* The demo model stage by stage: tokens, text encoder, UNet and VAE decoder against PyTorch's. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/text.h"
#include "support/golden.h"
#include "support/open_model.h"

#define DEMO TEST_ROOT "/jobs/demo/"

enum { PROMPTS = 4, SIDE = 16, CELLS = 4 * SIDE * SIDE, PIXELS = 128 * 128 };

static const double bound = 1e-4; /* relative L2 */

static int64_t file;
static open_model demo;

static int open_all(void **state)
{
    (void)state;
    file = golden_open("demo_golden.h5");
    demo = open_model_at(DEMO "shapes-fp16.safetensors", 2, KS_LOAD_TEXT | KS_LOAD_VAE,
                         DEMO "tokenizer");
    return 0;
}

static int close_all(void **state)
{
    (void)state;
    close_model(&demo);
    golden_close(file);
    return 0;
}

/* The group of prompt k; behind the last comes the empty one. */
static void group_of(int k, char group[32])
{
    if (k == PROMPTS)
        snprintf(group, 32, "/uncond");
    else
        snprintf(group, 32, "/prompt%d", k);
}

/* Prompt k; free() it. */
static char *text_of(int k)
{
    char group[32];
    group_of(k, group);
    return k == PROMPTS ? strdup("") : golden_text(file, group, "prompt");
}

static golden_array member(const char *group, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "%s/%s", group, name);
    return golden_read(file, path);
}

static void token_ids_match(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_tokenizer *tokenizer = ks_tokenizer_open(DEMO "tokenizer", &err);
    assert_non_null(tokenizer);
    for (int k = 0; k <= PROMPTS; k++) {
        char group[32], path[64], *text = text_of(k);
        int64_t count;
        group_of(k, group);
        snprintf(path, sizeof path, "%s/ids", group);
        int64_t *expected = golden_integers(file, path, &count);
        ks_prompt prompt;
        assert_int_equal(ks_prompt_make(&prompt, tokenizer, text, (int)count, &err), 0);
        assert_int_equal(prompt.blocks, 1);
        for (int64_t i = 0; i < count; i++)
            assert_int_equal(prompt.id[i], expected[i]);
        ks_prompt_free(&prompt);
        free(expected);
        free(text);
    }
    ks_tokenizer_free(tokenizer);
}

static void contexts_match(void **state)
{
    (void)state;
    for (int k = 0; k <= PROMPTS; k++) {
        ks_error err = KS_ERROR_NONE;
        char group[32], *text = text_of(k);
        float *context;
        int tokens;
        group_of(k, group);
        golden_array expected = member(group, "context");
        if (ks_model_encode_text(demo.model, text, &context, &tokens, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(tokens, expected.shape[0]);
        double error = relative_l2(context, expected.value, expected.count);
        if (!(error <= bound))
            fail_msg("%s: context is off by %g", group, error);
        free(context);
        free(text);
        golden_free(&expected);
    }
}

/* The first UNet call of every prompt: with the prompt, and with the empty one. */
static void first_network_outputs_match(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    int64_t steps;
    int64_t *timesteps = golden_integers(file, "/timesteps", &steps);
    golden_array empty = golden_read(file, "/uncond/context");
    for (int k = 0; k < PROMPTS; k++) {
        char group[32];
        group_of(k, group);
        golden_array context = member(group, "context"), noise = member(group, "noise");
        golden_array expected = member(group, "eps_first");
        float x[2 * CELLS], out[2 * CELLS];
        const int t[2] = {(int)timesteps[0], (int)timesteps[0]};
        memcpy(x, noise.value, sizeof x / 2);
        memcpy(x + CELLS, noise.value, sizeof x / 2);
        ks_cond *cond[2] = {
            ks_cond_new(demo.model, context.value, (int)context.shape[0], NULL, &err),
            ks_cond_new(demo.model, empty.value, (int)empty.shape[0], NULL, &err),
        };
        assert_true(cond[0] && cond[1]);
        if (ks_model_forward(demo.model, x, t, cond, 2, SIDE, SIDE, out, &err) != 0)
            fail_msg("%s", err.text);
        double error = relative_l2(out, expected.value, expected.count);
        if (!(error <= bound))
            fail_msg("%s: eps is off by %g", group, error);
        ks_cond_free(cond[0]);
        ks_cond_free(cond[1]);
        golden_free(&context);
        golden_free(&noise);
        golden_free(&expected);
    }
    golden_free(&empty);
    free(timesteps);
}

/* Where floats [H, W, 3] and [3, H, W] are far apart, in relative L2. */
static double picture_error(const float *pixels, const golden_array *planes)
{
    double difference = 0, size = 0;
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < PIXELS; i++) {
            double expected = planes->value[c * PIXELS + i], d = pixels[3 * i + c] - expected;
            difference += d * d;
            size += expected * expected;
        }
    return sqrt(difference / size);
}

static void check_picture(const char *group, const uint8_t *rgb, const float *floats)
{
    golden_array decoded = member(group, "decoded"), image = member(group, "image");
    int far = 0;
    for (int i = 0; i < 3 * PIXELS; i++)
        far += abs(rgb[i] - (int)image.value[i]) > 1;
    double error = picture_error(floats, &decoded);
    if (!(error <= bound))
        fail_msg("%s: the decoder's output is off by %g", group, error);
    if (far * 1000 > 3 * PIXELS)
        fail_msg("%s: %d of %d values are more than one step away", group, far, 3 * PIXELS);
    golden_free(&decoded);
    golden_free(&image);
}

static void decoded_pictures_match(void **state)
{
    (void)state;
    enum { AT_ONCE = 2 };
    ks_error err = KS_ERROR_NONE;
    uint8_t *rgb = malloc(AT_ONCE * 3 * PIXELS);
    float *floats = malloc(AT_ONCE * 3 * PIXELS * sizeof *floats);
    assert_true(rgb && floats);
    for (int k = 0; k < PROMPTS; k += AT_ONCE) {
        float latent[AT_ONCE * CELLS];
        for (int i = 0; i < AT_ONCE; i++) {
            char group[32];
            group_of(k + i, group);
            golden_array scaled = member(group, "latent");
            for (int j = 0; j < CELLS; j++)
                latent[i * CELLS + j] = scaled.value[j] / 0.18215f;
            golden_free(&scaled);
        }
        if (ks_model_decode(demo.model, latent, AT_ONCE, SIDE, SIDE, rgb, floats, &err) != 0)
            fail_msg("%s", err.text);
        for (int i = 0; i < AT_ONCE; i++) {
            char group[32];
            group_of(k + i, group);
            check_picture(group, rgb + i * 3 * PIXELS, floats + i * 3 * PIXELS);
        }
    }
    free(rgb);
    free(floats);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(token_ids_match),
        cmocka_unit_test(contexts_match),
        cmocka_unit_test(first_network_outputs_match),
        cmocka_unit_test(decoded_pictures_match),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
