#include "store/sheet.h"
#include "unit/store/decode.h"

static ks_job *load_job(const char *folder, const char *axes)
{
    ks_error err = KS_ERROR_NONE;
    char *path = ks_format("%s/job.json", folder);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fprintf(f,
            "{\"ksweep\":1,\"model\":\"m.safetensors\",\"output\":{\"file\":\"o.h5\"},"
            "\"latent_image\":{\"width\":40,\"height\":48},%s}",
            axes);
    fclose(f);
    ks_job *job = ks_job_load(path, NULL, 0, &err);
    if (!job)
        fail_msg("%s", err.text);
    job->batch = 1;
    free(path);
    return job;
}

static uint32_t colour_of(uint64_t index)
{
    return (0x400000 + (uint32_t)index * 0x010907) & 0xffffff;
}

/* Every sample a picture of one colour of its own; which of them are missing or failed. */
static void write_output(const char *out, const ks_job *job, bool images, int64_t missing,
                         int64_t failed)
{
    uint8_t picture[PICTURE];
    float latent[VALUES];
    ks_store_info info = make_info(ks_job_samples(job), false, images);
    ks_shard *s = create_shard(out, &info);
    for (uint64_t i = 0; i < info.samples; i++) {
        ks_row row = make_row(i, i);
        uint32_t colour = colour_of(i);
        for (size_t k = 0; k < PICTURE; k++)
            picture[k] = (uint8_t)(colour >> (16 - 8 * (k % 3)));
        for (size_t k = 0; k < VALUES; k++)
            latent[k] = (float)(i % 3) - 1 + (k < VALUES / CHANNELS ? 3 : 0);
        row.status = (int64_t)i == failed ? KS_FAILED : KS_DONE;
        if ((int64_t)i != missing)
            assert_int_equal(ks_shard_append(s, &row, row.status == KS_DONE ? latent : NULL,
                                             images ? picture : NULL, NULL),
                             0);
    }
    close_shard(s);
}

static ks_picture draw(const char *folder, const ks_job *job, const char *out,
                       ks_sheet_options options)
{
    ks_error err = KS_ERROR_NONE;
    char *png = ks_format("%s/sheet.png", folder);
    ks_output *o = ks_output_open(out, &err);
    options.png = png;
    if (!o || ks_sheet_draw(o, job, &options, &err))
        fail_msg("%s", err.text);
    ks_output_close(o);
    ks_picture p = decode(png);
    free(png);
    return p;
}

typedef struct box {
    int x0, y0, x1, y1, pixels;
} box;

static box find_colour(const ks_picture *p, uint32_t colour)
{
    box b = {p->width, p->height, -1, -1, 0};
    for (int y = 0; y < p->height; y++)
        for (int x = 0; x < p->width; x++)
            if (colour_at(p, x, y) == colour) {
                b.x0 = x < b.x0 ? x : b.x0;
                b.y0 = y < b.y0 ? y : b.y0;
                b.x1 = x > b.x1 ? x : b.x1;
                b.y1 = y > b.y1 ? y : b.y1;
                b.pixels++;
            }
    return b;
}

/* Dark pixels in a part of the sheet: writing. */
static int ink(const ks_picture *p, int x0, int y0, int x1, int y1)
{
    int n = 0;
    for (int y = y0; y < y1; y++)
        for (int x = x0; x < x1; x++)
            n += p->rgb[((size_t)y * (size_t)p->width + (size_t)x) * 3] < 120;
    return n;
}

/* 3 x 2 cells in each of 2 blocks: each sample's colour fills one cell, at its row and column. */
static void pictures_lie_in_the_cells_of_their_values(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_job *job = load_job(*state,
                           "\"positive\":\"p\",\"steps\":[8,9],\"cfg\":[1,2],\"seed\":[70,71,72],"
                           "\"sampler_name\":\"euler\",\"scheduler\":\"normal\"");
    write_output(out, job, true, -1, -1);
    ks_picture p = draw(*state, job, out, (ks_sheet_options){.x = "seed", .y = "cfg"});
    box cell[12], first;
    for (uint64_t i = 0; i < 12; i++) { /* index: cfg, then steps, then seed */
        cell[i] = find_colour(&p, colour_of(i));
        assert_int_equal(cell[i].pixels, 80 * 96); /* 40 x 48 pixels, doubled */
        assert_int_equal(cell[i].x1 - cell[i].x0, 79);
        assert_int_equal(cell[i].y1 - cell[i].y0, 95);
    }
    first = cell[0];
    for (int i = 0; i < 12; i++) {
        int seed = i % 3, steps = i / 3 % 2, cfg = i / 6;
        assert_int_equal(cell[i].x0, cell[seed].x0);
        assert_int_equal(cell[i].y0, cell[cfg * 6 + steps * 3].y0);
        assert_true(seed == 0 || cell[i].x0 > cell[i - 1].x1);
        assert_true(cfg == 0 || cell[i].y0 > cell[i - 6].y1);
        assert_true(steps == 0 || cell[i].y0 > cell[6].y1);
        assert_true(ink(&p, 0, cell[i].y0, first.x0, cell[i].y1) > 10); /* its row's label */
        assert_true(ink(&p, cell[i].x0, first.y0 - 30, cell[i].x1, first.y0) >
                    10); /* its column's */
    }
    assert_true(ink(&p, 0, cell[6].y1 + 1, p.width, cell[3].y0) >
                100); /* the second block's title */
    ks_picture_free(&p);
    ks_job_free(job);
    free(out);
}

static void missing_and_failed_cells_say_so(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_job *job = load_job(*state,
                           "\"positive\":\"p\",\"steps\":8,\"cfg\":[1,2],\"seed\":[70,71,72],"
                           "\"sampler_name\":\"euler\",\"scheduler\":\"normal\"");
    write_output(out, job, true, 1, 5);
    ks_picture p = draw(*state, job, out, (ks_sheet_options){.x = "seed", .y = "cfg"});
    box above = find_colour(&p, colour_of(4)), left = find_colour(&p, colour_of(3));
    assert_int_equal(find_colour(&p, colour_of(1)).pixels + find_colour(&p, colour_of(5)).pixels,
                     0);
    box missing = {above.x0, find_colour(&p, colour_of(0)).y0, above.x1,
                   find_colour(&p, colour_of(0)).y1, 0};
    box failed = {find_colour(&p, colour_of(2)).x0, left.y0, find_colour(&p, colour_of(2)).x1,
                  left.y1, 0};
    assert_true(ink(&p, missing.x0, missing.y0, missing.x1, missing.y1) > 20);
    int red = 0;
    for (int y = failed.y0; y < failed.y1; y++)
        for (int x = failed.x0; x < failed.x1; x++) {
            uint32_t c = colour_at(&p, x, y);
            red += (c >> 16) > 100 && (c >> 8 & 255) < 100;
        }
    assert_true(red > 20);
    ks_picture_free(&p);
    ks_job_free(job);
    free(out);
}

static void latents_without_pictures_are_previewed(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_job *job = load_job(*state,
                           "\"positive\":\"p\",\"steps\":8,\"cfg\":[1,2],\"seed\":[70,71,72],"
                           "\"sampler_name\":\"euler\",\"scheduler\":\"normal\"");
    write_output(out, job, false, -1, -1);
    ks_picture p = draw(*state, job, out, (ks_sheet_options){.x = "seed", .y = "cfg", .cell = 180});
    int bottom = p.height - 14 - 90, right = p.width - 14 - 75; /* the middle of the last cell */
    uint32_t last = colour_at(&p, right, bottom), middle = colour_at(&p, right - 154, bottom),
             first = colour_at(&p, right - 308, bottom);
    assert_int_equal(last,
                     colour_at(&p, right, bottom - 184)); /* the same latents in the row above */
    assert_true(last != middle && middle != first && first != last);
    ks_picture_free(&p);
    ks_job_free(job);
    free(out);
}

static void a_long_single_axis_is_laid_out_in_rows(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_job *job = load_job(
        *state, "\"positive\":\"p\",\"steps\":8,\"cfg\":1,\"seed\":{\"start\":1,\"count\":20},"
                "\"control_after_generate\":\"increment\",\"sampler_name\":\"euler\","
                "\"scheduler\":\"normal\"");
    write_output(out, job, true, -1, -1);
    ks_picture p = draw(*state, job, out, (ks_sheet_options){.cell = 48});
    box a = find_colour(&p, colour_of(0)), b = find_colour(&p, colour_of(6)),
        c = find_colour(&p, colour_of(19));
    assert_int_equal(a.x0, b.x0);
    assert_true(b.y0 > a.y1 && c.y0 > b.y1);
    assert_int_equal(c.pixels, 40 * 48);
    ks_picture_free(&p);
    ks_job_free(job);
    free(out);
}

static void assert_refused(ks_output *o, const ks_job *job, ks_sheet_options options,
                           const char *part)
{
    ks_error err = KS_ERROR_NONE;
    assert_int_equal(ks_sheet_draw(o, job, &options, &err), -1);
    if (!strstr(err.text, part))
        fail_msg("\"%s\" does not tell \"%s\"", err.text, part);
}

static void wrong_axes_are_answered_with_those_that_vary(void **state)
{
    char *out = ks_format("%s/o.h5", (char *)*state), *png = ks_format("%s/no.png", (char *)*state);
    ks_job *job = load_job(*state,
                           "\"positive\":\"p\",\"steps\":8,\"cfg\":[1,2],\"seed\":[70,71,72],"
                           "\"sampler_name\":\"euler\",\"scheduler\":\"normal\"");
    ks_job *other = load_job(
        *state, "\"positive\":\"p\",\"steps\":8,\"cfg\":1,\"seed\":1,\"sampler_name\":\"euler\","
                "\"scheduler\":\"normal\"");
    write_output(out, job, true, -1, -1);
    ks_output *o = ks_output_open(out, NULL);
    assert_non_null(o);
    assert_refused(o, job, (ks_sheet_options){.png = png, .x = "sead"}, "cfg (2), seed (3)");
    assert_refused(o, job, (ks_sheet_options){.png = png, .x = "cfg", .y = "cfg"},
                   "cfg (2), seed (3)");
    assert_refused(o, job, (ks_sheet_options){.png = png, .max_cells = 5}, "6 pictures");
    assert_refused(o, job, (ks_sheet_options){.png = png, .cell = -1}, "-1 pixels");
    assert_refused(o, other, (ks_sheet_options){.png = png}, "not the output's job");
    assert_false(exists(png));
    ks_output_close(o);
    ks_job_free(job);
    ks_job_free(other);
    free(png);
    free(out);
}

static void every_axis_can_be_along_a_side(void **state)
{
    static const char *const name[] = {"positive", "negative",  "latent_image",
                                       "denoise",  "scheduler", "sampler_name",
                                       "cfg",      "steps",     "seed"};
    char *out = ks_format("%s/o.h5", (char *)*state);
    ks_job *job = load_job(
        *state,
        "\"positive\":[\"p\",\"\"],\"negative\":[\"n\",\"m\"],\"denoise\":[0.5,1],"
        "\"steps\":[8,9],\"cfg\":[1,2],\"seed\":[70,71],\"sampler_name\":[\"euler\",\"heun\"],"
        "\"scheduler\":[\"normal\",\"karras\"]");
    write_output(out, job, true, 7, 9);
    for (size_t i = 0; i < sizeof name / sizeof *name; i++) {
        ks_picture p = draw(*state, job, out,
                            (ks_sheet_options){.x = name[i], .y = name[(i + 4) % 9], .cell = 10});
        box a = find_colour(&p, colour_of(0)), b = find_colour(&p, colour_of(255));
        assert_true(a.pixels == 80 && b.pixels == 80);
        assert_true(b.y0 > a.y1);
        ks_picture_free(&p);
    }
    ks_job_free(job);
    free(out);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(pictures_lie_in_the_cells_of_their_values),
        TEST(missing_and_failed_cells_say_so),
        TEST(latents_without_pictures_are_previewed),
        TEST(a_long_single_axis_is_laid_out_in_rows),
        TEST(wrong_axes_are_answered_with_those_that_vary),
        TEST(every_axis_can_be_along_a_side),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
