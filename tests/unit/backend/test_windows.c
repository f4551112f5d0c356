/* Windows and masks of latents: crop, blend and inpaint against their definitions. */
#include "acts.h"

enum { CHANNELS = 3, HEIGHT = 37, WIDTH = 501, CELLS = HEIGHT * WIDTH, ITEM = CHANNELS * CELLS };

static void crops_are_the_window(void **state)
{
    (void)state;
    ks_ops *ops = new_cpu(2);
    const ks_window at[] = {
        {0, 0, HEIGHT, WIDTH}, {5, 7, 1, 1}, {36, 0, 1, 501}, {3, 400, 30, 101}};
    float *x = random_floats(ITEM, 1), *out = random_floats(ITEM, 2);
    for (int k = 0; k < 4; k++) {
        ops->crop(ops, out, x, CHANNELS, HEIGHT, WIDTH, at[k]);
        no_failure(ops);
        for (int i = 0; i < CHANNELS * at[k].h * at[k].w; i++) {
            int c = i / (at[k].h * at[k].w), line = i / at[k].w % at[k].h, cell = i % at[k].w;
            assert_true(out[i] == x[c * CELLS + (at[k].y + line) * WIDTH + at[k].x + cell]);
        }
    }
    free(x), free(out);
    ops->free(ops);
}

/* Exactly what ops.h says of one element. */
static double blended(const ks_blend_op *op, const float *x, int i)
{
    int c = i / CELLS, y = i / WIDTH % HEIGHT, cell = i % WIDTH;
    double sum = 0, total = 1e-37;
    for (int k = 0; k < op->parts; k++) {
        const ks_blend_part *p = &op->part[k];
        int v = y - p->at.y, u = cell - p->at.x;
        if (v < 0 || u < 0 || v >= p->at.h || u >= p->at.w)
            continue;
        double w = p->scale * (p->map ? (double)p->map[v * p->at.w + u] : 1);
        sum += w * (op->x_coef * (double)x[i] +
                    op->in_coef * (double)p->in[(c * p->at.h + v) * p->at.w + u]);
        total += w;
    }
    return sum / total;
}

static void blends_are_weighted_means_of_their_windows(void **state)
{
    (void)state;
    float *x = random_floats(ITEM, 1), *map = random_floats(CELLS, 2), *in = random_floats(ITEM, 3);
    float *first = random_floats(ITEM, 4), *out = random_floats(ITEM, 5);
    for (int i = 0; i < CELLS; i++)
        map[i] = fabsf(map[i]);
    const ks_blend_part part[] = {{{0, 0, HEIGHT, 300}, in, NULL, 0.5},
                                  {{10, 200, 20, 100}, in, map, 2},
                                  {{0, 290, 5, 100}, in, map, 1}};
    for (int threads = 1; threads <= 2; threads++)
        for (int parts = 0; parts <= 3; parts++) {
            ks_ops *ops = new_cpu(threads);
            ks_blend_op op = {.out = out,
                              .x = x,
                              .channels = CHANNELS,
                              .height = HEIGHT,
                              .width = WIDTH,
                              .x_coef = 0.75,
                              .in_coef = -1.25,
                              .parts = parts,
                              .part = part};
            ops->blend(ops, &op);
            for (int i = 0; i < ITEM; i++) {
                double want = blended(&op, x, i);
                assert_true(fabs((double)out[i] - want) <= 0x1p-24 * fabs(want));
            }
            memcpy(first, x, ITEM * sizeof *x); /* in place: the same bits */
            op.out = first;
            op.x = first;
            ops->blend(ops, &op);
            no_failure(ops);
            assert_memory_equal(first, out, ITEM * sizeof *out);
            ops->free(ops);
        }
    free(x), free(map), free(in), free(first), free(out);
}

static void inpainting_mixes_by_the_mask(void **state)
{
    (void)state;
    ks_ops *ops = new_cpu(1);
    float *x = random_floats(ITEM, 1), *mask = random_floats(CELLS, 2), *a = random_floats(ITEM, 3);
    float *b = random_floats(ITEM, 4), *out = random_floats(ITEM, 5);
    mask[0] = 0;
    mask[1] = 1;
    for (int terms = 0; terms <= 2; terms++) {
        ks_inpaint_op op = {.out = out,
                            .x = x,
                            .mask = mask,
                            .channels = CHANNELS,
                            .cells = CELLS,
                            .terms = terms,
                            .coef = {14.5, 1},
                            .in = {a, b}};
        ops->inpaint(ops, &op);
        for (int i = 0; i < ITEM; i++) {
            double m = (double)mask[i % CELLS], kept = 0;
            kept += terms > 0 ? 14.5 * (double)a[i] : 0;
            kept += terms > 1 ? (double)b[i] : 0;
            double want = m * (double)x[i] + (1 - m) * kept;
            assert_true(fabs((double)out[i] - want) <= 0x1p-23 * (fabs(want) + 1e-6));
        }
        assert_true(out[1] == x[1]);
    }
    ks_inpaint_op op = {.out = x,
                        .x = x,
                        .mask = mask,
                        .channels = CHANNELS,
                        .cells = CELLS,
                        .terms = 2,
                        .coef = {14.5, 1},
                        .in = {a, b}};
    ops->inpaint(ops, &op);
    no_failure(ops);
    assert_memory_equal(x, out, ITEM * sizeof *x);
    free(x), free(mask), free(a), free(b), free(out);
    ops->free(ops);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crops_are_the_window),
        cmocka_unit_test(blends_are_weighted_means_of_their_windows),
        cmocka_unit_test(inpainting_mixes_by_the_mask),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
