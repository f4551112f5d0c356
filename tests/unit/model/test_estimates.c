/* What a network call is said to cost against what it does: the backend's operations are counted on
 * their way. */
#include <stdio.h>
#include <stdlib.h>

#include "model/internal.h"
#include "model/unet.h"
#include "support/known_unets.h"
#include "support/open_model.h"

enum { TOKENS = 77, MARKS = 64 };

static ks_ops real;

/* Multiply-adds, and floats of scratch in use and at their peak. */
static double macs, used, peak;
static struct {
    size_t mark;
    double used;
} marks[MARKS];
static int mark_count;

static double values(ks_act a)
{
    return (double)a.n * a.h * a.w * a.c;
}

static void count_conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    macs += values(y) * x.c * (how->pad ? 9 : 1);
    real.conv(ops, y, x, w, how);
}

static void count_linear(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w,
                         ks_activation activation, ks_act residual)
{
    macs += values(y) * x.c;
    real.linear(ops, y, x, w, activation, residual);
}

static void count_geglu(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w)
{
    macs += 2 * values(y) * x.c;
    real.geglu(ops, y, x, w);
}

static void count_attention(ks_ops *ops, ks_act y, ks_act q, ks_act k, ks_act v,
                            const ks_attention *how)
{
    macs += 2 * values(q) * k.h * k.w;
    real.attention(ops, y, q, k, v, how);
}

static ks_act count_act(ks_ops *ops, int n, int h, int w, int c)
{
    used += (double)n * h * w * c;
    peak = used > peak ? used : peak;
    return real.act(ops, n, h, w, c);
}

static size_t count_mark(ks_ops *ops)
{
    assert_true(mark_count < MARKS);
    size_t mark = real.mark(ops);
    marks[mark_count].mark = mark;
    marks[mark_count++].used = used;
    return mark;
}

static void count_unwind(ks_ops *ops, size_t mark)
{
    assert_true(mark_count > 0);
    used = marks[--mark_count].used;
    assert_true(marks[mark_count].mark == mark);
    real.unwind(ops, mark);
}

static void count_from_here(ks_ops *ops)
{
    real = *ops;
    ops->conv = count_conv;
    ops->linear = count_linear;
    ops->geglu = count_geglu;
    ops->attention = count_attention;
    ops->act = count_act;
    ops->mark = count_mark;
    ops->unwind = count_unwind;
}

/* One row at a size, with the conditioning in its slot already. */
static void run_row(ks_model *m, int height, int width)
{
    ks_error err = KS_ERROR_NONE;
    const ks_unet_config *c = &ks_model_config_of(m)->unet;
    size_t cells = (size_t)(4 * height * width);
    float *x = calloc(cells, sizeof *x), *out = calloc(cells, sizeof *out);
    float *context = calloc((size_t)(TOKENS * c->context_dim), sizeof *context);
    float *y = calloc((size_t)c->adm_channels + 1, sizeof *y);
    assert_true(x && out && context && y);
    ks_cond *cond = ks_cond_new(m, context, TOKENS, c->adm_channels ? y : NULL, &err);
    assert_non_null(cond);
    for (int i = 0; i < 2; i++) {
        macs = used = peak = 0;
        if (ks_model_forward(m, x, &(int){500}, &cond, 1, height, width, out, &err) != 0)
            fail_msg("%s", err.text);
    }
    ks_cond_free(cond);
    free(x);
    free(out);
    free(context);
    free(y);
}

typedef struct place {
    const char *path;
    int height, width;
} place;

static const place places[] = {
    {TEST_DATA "/tiny-sd15.safetensors", 16, 16},
    {TEST_DATA "/tiny-sdxl.safetensors", 9, 15},
    {TEST_ROOT "/jobs/demo/shapes-fp16.safetensors", 16, 12},
};
enum { PLACES = sizeof places / sizeof *places, MOST_PARTS = 4 };

static void counted_multiply_adds_are_the_estimate(void **state)
{
    (void)state;
    for (int i = 0; i < PLACES; i++) {
        open_model o = open_model_at(places[i].path, 1, 0, NULL);
        const ks_unet_config *c = &ks_model_config_of(o.model)->unet;
        count_from_here(o.ops);
        run_row(o.model, places[i].height, places[i].width);
        assert_true(macs == ks_unet_macs(c, places[i].height, places[i].width, TOKENS));
        close_model(&o);
    }
}

/* The first of so many parts, without the others: what it computes is wrong, and as much as in their company. */
static open_model open_part(const char *path, int parts)
{
    static ks_group alone = {.rank = 0, .size = 1};
    const ks_split split = {0, parts};
    ks_error err = KS_ERROR_NONE;
    open_model o = open_model_at(path, 1, 0, NULL);
    ks_safetensors *st = ks_safetensors_open(path, &err);
    assert_non_null(st);
    ks_model *part = ks_model_load(st, ks_model_config_of(o.model), o.ops, &split, 0, NULL, &err);
    ks_model_free(o.model);
    o.model = part;
    assert_non_null(part);
    ks_safetensors_close(st);
    assert_int_equal(o.ops->join(o.ops, &alone, &alone, &err), 0);
    return o;
}

/* A call at a place takes about what is estimated; `least` of it or more. */
static void check_activations(const place *at, int parts, bool slices, double least)
{
    open_model o = open_part(at->path, parts);
    o.ops->slices = slices;
    count_from_here(o.ops);
    run_row(o.model, at->height, at->width);
    double bytes = peak * sizeof(float);
    double estimate = ks_unet_activation_bytes(&ks_model_config_of(o.model)->unet, parts, at->height, at->width, 4);
    if (!(bytes > least * estimate && bytes < 1.15 * estimate))
        fail_msg("%s in %d parts: %g bytes in use, %g estimated", at->path, parts, bytes, estimate);
    close_model(&o);
}

static void activations_stay_near_the_estimate(void **state)
{
    (void)state;
    for (int i = 0; i < PLACES; i++)
        for (int parts = 1; parts <= MOST_PARTS; parts *= 2) {
            check_activations(&places[i], parts, true, 0.85);
            check_activations(&places[i], parts, false, 0.6);
        }
}

static void a_conditioning_takes_what_is_estimated(void **state)
{
    (void)state;
    for (int i = 0; i < PLACES; i++)
        for (int parts = 1; parts <= MOST_PARTS; parts *= 2) {
            open_model o = open_part(places[i].path, parts);
            const ks_unet_config *c = &ks_model_config_of(o.model)->unet;
            assert_true((double)ks_kv_slot_bytes(&o.model->unet, o.ops, TOKENS) == ks_unet_conditioning_bytes(c, parts, TOKENS, 4));
            close_model(&o);
        }
}

static void decoding_stays_near_the_estimate(void **state)
{
    (void)state;
    enum { HEIGHT = 9, WIDTH = 12 };
    open_model o = open_model_at(TEST_ROOT "/jobs/demo/shapes-fp16.safetensors", 1, KS_LOAD_VAE, NULL);
    const ks_vae_config *c = &ks_model_config_of(o.model)->vae;
    float *latent = calloc(4 * HEIGHT * WIDTH, sizeof *latent);
    uint8_t *rgb = calloc(3 * 64 * HEIGHT * WIDTH, 1);
    ks_error err = KS_ERROR_NONE;
    assert_true(latent && rgb);
    count_from_here(o.ops);
    used = peak = 0;
    assert_int_equal(ks_model_decode(o.model, latent, 1, HEIGHT, WIDTH, rgb, NULL, &err), 0);
    double bytes = peak * sizeof(float), estimate = ks_vae_activation_bytes(c, HEIGHT, WIDTH, 4);
    if (!(bytes > 0.6 * estimate && bytes < 1.05 * estimate))
        fail_msg("%g bytes in use, %g estimated", bytes, estimate);
    free(latent);
    free(rgb);
    close_model(&o);
}

/* Stable Diffusion XL base, whose UNet is known to have 70 transformer blocks. */
static void stages_of_sdxl_are_its_own(void **state)
{
    (void)state;
    const ks_unet_config *c = &known_sdxl;
    ks_unet_stage stage[KS_UNET_STAGES];
    int count = ks_unet_stages(c, stage), blocks = 0;
    assert_int_equal(count, 9 + 1 + 9);
    for (int i = 0; i < count; i++)
        blocks += stage[i].depth;
    assert_int_equal(blocks, 70);
    assert_int_equal(stage[10].in, 2560);
    assert_int_equal(stage[18].in, 640);
    assert_int_equal(ks_unet_heads(c, 1280), 20);
    /* Counters of layers, which leave out attention's own products, give 2.98e12. */
    double products = 10 * 2.0 * 4096 * 4096 * 640 + 60 * 2.0 * 1024 * 1024 * 1280;
    double layers = (ks_unet_macs(c, 128, 128, 77) - products) / 1e12;
    assert_true(layers > 2.96 && layers < 3.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counted_multiply_adds_are_the_estimate),
        cmocka_unit_test(activations_stay_near_the_estimate),
        cmocka_unit_test(a_conditioning_takes_what_is_estimated),
        cmocka_unit_test(decoding_stays_near_the_estimate),
        cmocka_unit_test(stages_of_sdxl_are_its_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
