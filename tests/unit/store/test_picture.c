#include "store/preview.h"
#include "store/text.h"
#include "unit/store/decode.h"

static ks_picture plain(int width, int height)
{
    ks_picture p;
    assert_int_equal(ks_picture_new(&p, width, height, 250, 251, 252, NULL), 0);
    return p;
}

static void a_png_file_holds_the_picture(void **state)
{
    char *path = ks_format("%s/p.png", (char *)*state);
    ks_picture p = plain(37, 11);
    for (size_t i = 0; i < 37 * 11 * 3; i++)
        p.rgb[i] = (uint8_t)(i * 7);
    assert_int_equal(ks_png_write(path, &p, NULL), 0);
    ks_picture q = decode(path);
    assert_int_equal(q.width * 1000 + q.height, 37011);
    assert_memory_equal(p.rgb, q.rgb, 37 * 11 * 3);
    ks_picture_free(&p);
    ks_picture_free(&q);
    free(path);
}

static void a_png_file_that_cannot_be_written_is_named(void **state)
{
    char *path = ks_format("%s/none/p.png", (char *)*state);
    ks_error err = KS_ERROR_NONE;
    ks_picture p = plain(3, 3);
    assert_int_equal(ks_png_write(path, &p, &err), -1);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "No such file"));
    ks_picture_free(&p);
    free(path);
}

static void pictures_too_large_or_empty_are_refused(void **state)
{
    ks_picture p;
    ks_error err = KS_ERROR_NONE;
    (void)state;
    assert_int_equal(ks_picture_new(&p, 100000, 100000, 0, 0, 0, &err), -1);
    assert_non_null(strstr(err.text, "100000 x 100000"));
    assert_int_equal(ks_picture_new(&p, 0, 5, 0, 0, 0, &err), -1);
}

static void whole_factors_upwards_give_plain_squares(void **state)
{
    static const uint8_t rgb[12] = {1, 2, 3, 40, 50, 60, 70, 80, 90, 255, 255, 255};
    ks_picture p = plain(8, 8);
    (void)state;
    ks_picture_paste(&p, 1, 1, 6, 6, rgb, 2, 2);
    for (int y = 0; y < 8; y++)
        for (int x = 0; x < 8; x++) {
            bool inside = x > 0 && y > 0 && x < 7 && y < 7;
            const uint8_t *want = rgb + ((y - 1) / 3 * 2 + (x - 1) / 3) * 3;
            assert_int_equal(colour_at(&p, x, y), inside ? want[0] << 16 | want[1] << 8 | want[2]
                                                         : 250 << 16 | 251 << 8 | 252);
        }
    ks_picture_free(&p);
}

static void downwards_every_source_pixel_counts_by_its_area(void **state)
{
    uint8_t rgb[4 * 4 * 3];
    ks_picture p = plain(3, 3);
    (void)state;
    for (int i = 0; i < 16; i++)
        memset(rgb + 3 * i, i * 8, 3);
    ks_picture_paste(&p, 0, 0, 1, 1, rgb, 4, 4);
    assert_int_equal(p.rgb[0], 60);
    ks_picture_paste(&p, 0, 0, 3, 3, rgb, 4,
                     4);            /* the first: pixel 0, a third of 1 and 4, a ninth of 5 */
    assert_int_equal(p.rgb[0], 10); /* (8 / 3 + 32 / 3 + 40 / 9) / (16 / 9) */
    ks_picture_free(&p);
}

static void drawing_is_cut_at_the_edges(void **state)
{
    ks_picture p = plain(5, 5);
    (void)state;
    ks_picture_fill(&p, -3, -3, 100, 5, 0x102030);
    ks_picture_line(&p, -10, 9, 20, -9, 0x405060);
    ks_picture_frame(&p, -1, -1, 7, 7, 0);
    assert_int_equal(colour_at(&p, 0, 1), 0x102030);
    assert_int_equal(colour_at(&p, 0, 3), 0x405060);
    assert_int_equal(colour_at(&p, 4, 4), 250 << 16 | 251 << 8 | 252);
    ks_picture_free(&p);
}

static void lines_fit_and_hold_the_whole_text(void **state)
{
    static const char text[] =
        "a large blue star beside a small triangle, "
        "Donaudampfschifffahrtsgesellschaftskapit\xc3\xa4nsm\xc3\xbctze \xe8\xb5\xa4\xe3\x81\x84\n"
        "second  line";
    (void)state;
    ks_font *f = ks_font_open(14, false, NULL);
    assert_non_null(f);
    for (int width = 40; width < 400; width += 17) {
        ks_text_line line[64];
        int n = ks_text_wrap(f, text, width, line, 64);
        const char *at = text;
        for (int i = 0; i < n; i++) {
            assert_true(line[i].width <= width);
            assert_false(line[i].cut);
            for (; at < line[i].text; at++) /* what lies between lines is blank */
                assert_true(*at == ' ' || *at == '\n');
            assert_ptr_equal(at, line[i].text);
            assert_int_not_equal(*at & 0xc0, 0x80);
            at += line[i].size;
        }
        assert_int_equal(*at, 0);
    }
    ks_font_free(f);
}

static void what_does_not_fit_ends_with_an_ellipsis(void **state)
{
    ks_text_line line[2];
    (void)state;
    ks_font *f = ks_font_open(14, false, NULL);
    assert_int_equal(ks_text_wrap(f, "one two three four five six seven eight nine", 90, line, 2),
                     2);
    assert_false(line[0].cut);
    assert_true(line[1].cut);
    assert_true(line[1].width <= 90 && line[1].size > 0);
    assert_int_equal(ks_text_wrap(f, "", 90, line, 2), 1);
    assert_int_equal(line[0].size + (size_t)line[0].width, 0);
    ks_font_free(f);
}

static void text_that_is_no_utf8_is_drawn_as_something(void **state)
{
    ks_text_line line[4];
    ks_picture p = plain(200, 40);
    (void)state;
    ks_font *f = ks_font_open(14, true, NULL);
    assert_int_equal(ks_text_wrap(f, "\xff\xfe\x80 \xc3", 180, line, 4), 1);
    ks_text_draw(&p, f, 5, 5, &line[0], 0);
    int ink = 0;
    for (int i = 0; i < 200 * 40; i++)
        ink += p.rgb[3 * i] < 100;
    assert_true(ink > 20);
    ks_font_free(f);
    ks_picture_free(&p);
}

static void a_machine_without_fonts_is_told_so(void **state)
{
    char *path = ks_format("%s/fonts.conf", (char *)*state);
    ks_error err = KS_ERROR_NONE;
    FILE *f = fopen(path, "w");
    fputs("<?xml version=\"1.0\"?><!DOCTYPE fontconfig SYSTEM "
          "\"fonts.dtd\"><fontconfig></fontconfig>",
          f);
    fclose(f);
    setenv("FONTCONFIG_FILE", path, 1);
    assert_null(ks_font_open(14, false, &err));
    unsetenv("FONTCONFIG_FILE");
    assert_non_null(strstr(err.text, "no font"));
    free(path);
}

enum { PIXELS = 400 };

/* Channels that are known mixtures of one strong and one weak pattern. */
static void mix(float *latent)
{
    for (int i = 0; i < PIXELS; i++) {
        double strong = i % 20 < 10 ? -1 : 1, weak = i / 20 % 2 ? -0.2 : 0.2;
        latent[i] = (float)(3 * strong + 5);
        latent[PIXELS + i] = (float)(2 * strong + weak);
        latent[2 * PIXELS + i] = (float)(-weak);
    }
}

static void the_strongest_direction_is_the_brightness(void **state)
{
    float latent[3 * PIXELS];
    uint8_t rgb[3 * PIXELS];
    (void)state;
    ks_preview *p = ks_calloc(1, sizeof *p);
    mix(latent);
    ks_preview_add(p, 3, latent, PIXELS);
    ks_preview_fit(p);
    ks_preview_draw(p, latent, PIXELS, rgb);
    for (int i = 0; i < PIXELS; i++) {
        int sum = rgb[3 * i] + rgb[3 * i + 1] + rgb[3 * i + 2];
        assert_true(i % 20 < 10 ? sum < 300 : sum > 460);
    }
    int colour = abs(rgb[0] - rgb[1]) + abs(rgb[1] - rgb[2]); /* and the weak one tints it */
    assert_true(colour > 20);
    assert_memory_not_equal(rgb, rgb + 3 * 20, 3);
    free(p);
}

static void latents_of_one_value_or_none_finite_are_drawn_too(void **state)
{
    float latent[3 * PIXELS] = {0};
    uint8_t rgb[3 * PIXELS];
    (void)state;
    ks_preview *p = ks_calloc(1, sizeof *p);
    ks_preview_add(p, 1, latent, PIXELS);
    ks_preview_fit(p);
    ks_preview_draw(p, latent, PIXELS, rgb);
    assert_int_equal(rgb[0] << 16 | rgb[1] << 8 | rgb[2], 0x808080);
    latent[7] = (float)(0.0 / 0.0 * (latent[1] + 1));
    ks_preview_draw(p, latent, PIXELS, rgb);
    assert_int_equal(rgb[21] << 16 | rgb[22] << 8 | rgb[23], 0xff00ff);
    free(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_png_file_holds_the_picture),
        TEST(a_png_file_that_cannot_be_written_is_named),
        TEST(pictures_too_large_or_empty_are_refused),
        TEST(whole_factors_upwards_give_plain_squares),
        TEST(downwards_every_source_pixel_counts_by_its_area),
        TEST(drawing_is_cut_at_the_edges),
        TEST(lines_fit_and_hold_the_whole_text),
        TEST(what_does_not_fit_ends_with_an_ellipsis),
        TEST(text_that_is_no_utf8_is_drawn_as_something),
        TEST(a_machine_without_fonts_is_told_so),
        TEST(the_strongest_direction_is_the_brightness),
        TEST(latents_of_one_value_or_none_finite_are_drawn_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
