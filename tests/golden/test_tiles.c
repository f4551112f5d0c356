/* Pictures decoded in tiles: the demo's latents, four of them as one large one. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"
#include "support/golden.h"
#include "support/open_model.h"

enum { SIDE = 16, LARGE = 2 * SIDE, CHANNELS = 4, PIXELS = 64 * LARGE * LARGE, VALUES = 3 * PIXELS };

static open_model demo;
static float latent[CHANNELS * LARGE * LARGE];
static float whole[VALUES], tiled[VALUES]; /* the decoder's raw output */
static uint8_t whole_rgb[VALUES], tiled_rgb[VALUES];

/* Two by two of the reference latents, so that tiles see different pictures. */
static int open_all(void **state)
{
    (void)state;
    int64_t file = golden_open("demo_golden.h5");
    for (int k = 0; k < 4; k++) {
        char path[32];
        snprintf(path, sizeof path, "/prompt%d/latent", k);
        golden_array a = golden_read(file, path);
        for (int i = 0; i < CHANNELS * SIDE * SIDE; i++) {
            int c = i / (SIDE * SIDE), y = i / SIDE % SIDE + k / 2 * SIDE, x = i % SIDE + k % 2 * SIDE;
            latent[(c * LARGE + y) * LARGE + x] = a.value[i] / 0.18215F;
        }
        golden_free(&a);
    }
    golden_close(file);
    demo = open_model_at(TEST_ROOT "/jobs/demo/shapes-fp16.safetensors", 2, KS_LOAD_VAE, NULL);
    ks_error err = KS_ERROR_NONE;
    return ks_model_decode(demo.model, latent, 1, LARGE, LARGE, whole_rgb, whole, &err);
}

static int close_all(void **state)
{
    (void)state;
    close_model(&demo);
    return 0;
}

static void decode_tiles(int side, int overlap)
{
    ks_error err = KS_ERROR_NONE;
    if (ks_decode_tiles(demo.model, latent, LARGE, LARGE, side, overlap, tiled_rgb, tiled, &err))
        fail_msg("%s", err.text);
}

static void one_tile_is_the_whole_picture(void **state)
{
    (void)state;
    decode_tiles(LARGE, 8);
    assert_memory_equal(tiled, whole, sizeof whole);
    assert_memory_equal(tiled_rgb, whole_rgb, sizeof whole_rgb);
}

enum { TILE = 16, OVERLAP = 8, STEP = TILE - OVERLAP, TILES = 3, TILE_VALUES = 3 * 64 * TILE * TILE };

/* Each of the three by three tiles decoded alone, by the place of its first cell. */
static float alone[TILES][TILES][TILE_VALUES];

static void decode_alone(int row, int column)
{
    static float part[CHANNELS * TILE * TILE];
    static uint8_t unused[TILE_VALUES];
    ks_error err = KS_ERROR_NONE;
    for (int i = 0; i < CHANNELS * TILE * TILE; i++) {
        int c = i / (TILE * TILE), y = i / TILE % TILE + row * STEP, x = i % TILE + column * STEP;
        part[i] = latent[(c * LARGE + y) * LARGE + x];
    }
    if (ks_model_decode(demo.model, part, 1, TILE, TILE, unused, alone[row][column], &err))
        fail_msg("%s", err.text);
}

/* The least and the largest value that the tiles over a pixel have there; how many those are. */
static int span_at(int y, int x, int k, float *low, float *high)
{
    int over = 0;
    *low = INFINITY;
    *high = -INFINITY;
    for (int row = 0; row < TILES; row++)
        for (int column = 0; column < TILES; column++) {
            int i = y - 8 * STEP * row, j = x - 8 * STEP * column;
            if (i < 0 || i >= 8 * TILE || j < 0 || j >= 8 * TILE)
                continue;
            float value = alone[row][column][(i * 8 * TILE + j) * 3 + k];
            *low = fminf(*low, value);
            *high = fmaxf(*high, value);
            over++;
        }
    return over;
}

/* Where one tile lies, its own pixels; where several do, between theirs. */
static void a_pixel_is_a_mean_of_the_tiles_over_it(void **state)
{
    (void)state;
    decode_tiles(TILE, OVERLAP);
    for (int i = 0; i < TILES * TILES; i++)
        decode_alone(i / TILES, i % TILES);
    int single = 0;
    for (int i = 0; i < VALUES; i++) {
        float low, high, value = tiled[i];
        single += span_at(i / 3 / (8 * LARGE), i / 3 % (8 * LARGE), i % 3, &low, &high) == 1;
        assert_true(value >= low - 1e-5F && value <= high + 1e-5F);
        assert_int_equal(tiled_rgb[i], (int)rintf(fminf(fmaxf((value + 1) / 2, 0), 1) * 255));
    }
    assert_int_equal(single, 4 * 3 * 64 * STEP * STEP); /* the corners */
}

/* From a pixel to its neighbour the mean changes as the tiles do, and by the share that their weights move: there are no
 * seams, however far apart the tiles are. */
static void tiles_fade_into_each_other(void **state)
{
    (void)state;
    enum { WIDE = 8 * LARGE };
    const double fade = 8 * OVERLAP;
    for (int i = 0; i < VALUES; i++) {
        float low, high, next_low, next_high;
        int y = i / 3 / WIDE, x = i / 3 % WIDE, k = i % 3;
        if (x + 1 == WIDE)
            continue;
        span_at(y, x, k, &low, &high);
        span_at(y, x + 1, k, &next_low, &next_high);
        double spread = fmax((double)high, (double)next_high) - fmin((double)low, (double)next_low), steps = 0;
        for (int row = 0; row < TILES; row++)
            for (int column = 0; column < TILES; column++) {
                int a = y - 8 * STEP * row, b = x - 8 * STEP * column;
                if (a < 0 || a >= 8 * TILE || b < 0 || b + 1 >= 8 * TILE)
                    continue;
                const float *at = &alone[row][column][(a * 8 * TILE + b) * 3 + k];
                steps = fmax(steps, fabs((double)at[3] - (double)at[0]));
            }
        assert_true(fabs((double)tiled[i + 3] - (double)tiled[i]) <= steps + 2 * spread / fade + 1e-5);
    }
}

/* A picture above 12 GiB is estimated as a tile is, and no larger one costs more. */
static void memory_is_bounded_by_tiles(void **state)
{
    (void)state;
    const ks_vae_config *c = &ks_model_config_of(demo.model)->vae;
    assert_true(ks_decode_bytes(c, 128, 128, 4) == ks_vae_activation_bytes(c, 128, 128, 4));
    assert_true(ks_vae_activation_bytes(c, 1024, 1024, 4) > 12 * 0x1p30);
    assert_true(ks_decode_bytes(c, 1024, 1024, 4) == ks_vae_activation_bytes(c, KS_TILE_SIDE, KS_TILE_SIDE, 4));
    assert_true(ks_decode_bytes(c, 64, 40000, 4) == ks_vae_activation_bytes(c, 64, KS_TILE_SIDE, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_tile_is_the_whole_picture),
        cmocka_unit_test(a_pixel_is_a_mean_of_the_tiles_over_it),
        cmocka_unit_test(tiles_fade_into_each_other),
        cmocka_unit_test(memory_is_bounded_by_tiles),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
