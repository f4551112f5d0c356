/* Contact sheets. A sheet is a heading and blocks below one another; a block is a grid of cells
 * with the x axis' labels above it and the y axis' at its left. Sizes grow with the cell, so that
 * large pictures get larger type. */
#include "store/sheet.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "store/png.h"
#include "store/preview.h"
#include "store/sheet_axes.h"
#include "store/text.h"

enum {
    SMALLEST_CELL = 96,
    LARGEST_CELL = 16384,
    MOST_CELLS = 4096,
    HEADING_LINES = 4,
    TITLE_LINES = 3,
    COLUMN_LINES = 5,
    MOST_LINES = 64,
    LONGEST_VALUE = 80, /* bytes of a value in a title */
    FIT_LATENTS = 64,   /* that the preview looks at */
};

static const uint32_t PAPER = 0xfcfcfb, INK = 0x1f2328, FAINT_INK = 0x6a7078, RULE = 0xd4d7db,
                      NOTHING = 0xf0f1f2, FAILURE = 0x9f2d20;

/* Cells of one combination of the axes that are neither x nor y; a sweep along one axis is cut into
 * several. */
typedef struct sheet_block {
    uint64_t at[KS_AXES];
    uint64_t x0, columns;
    char *title; /* or NULL */
    int title_h;
} sheet_block;

typedef struct sheet {
    ks_output *output;
    const ks_job *job;
    const ks_sheet_options *options;
    ks_axis x, y;
    uint64_t nx, ny, columns; /* columns: of a block at most */
    sheet_block *block;
    uint64_t blocks;
    char *heading, *facts;
    ks_font *font, *bold;
    int em, gap, margin;
    int source_w, source_h; /* of a picture */
    int cell_w, cell_h;
    int label_w; /* of the y axis' labels */
    int width, height, heading_h, column_h;
    ks_preview *preview; /* NULL: /images are shown */
    uint8_t *rgb;        /* one picture */
    float *latent;
    ks_picture picture;
} sheet;

/* --- what is on the sheet --- */

/* Cuts a long value between two characters and ends it with an ellipsis. */
static char *shorten(char *value)
{
    size_t n = LONGEST_VALUE;
    if (strlen(value) <= n)
        return value;
    while (n && ((unsigned char)value[n] & 0xc0) == 0x80)
        n--;
    char *shorter = ks_format("%.*s\xe2\x80\xa6", (int)n, value);
    free(value);
    return shorter;
}

static char *join(char *text, const char *between, const char *name, char *value)
{
    char *longer = ks_format("%s%s%s = %s", text, *text ? between : "", name, value);
    free(text);
    free(value);
    return longer;
}

/* Whether the axis is x or y, or walks with it. */
static bool is_shown(const sheet *s, ks_axis axis)
{
    ks_axis leader = ks_job_leader(s->job, axis);
    return leader == ks_job_leader(s->job, s->x) || leader == ks_job_leader(s->job, s->y);
}

/* "name = value, ..." of the axes in neither direction; varying: those with several values, else
 * those with one. */
static char *describe(const sheet *s, const uint64_t at[KS_AXES], bool varying)
{
    char *text = ks_strdup("");
    for (int a = 0; a < KS_AXES; a++) {
        ks_axis axis = (ks_axis)a;
        bool several = ks_job_axis_size(s->job, axis) > 1;
        if (several != varying || (varying && is_shown(s, axis)))
            continue;
        if (!varying &&
            (axis == KS_AXIS_BATCH || (axis == KS_AXIS_NEGATIVE && !*s->job->negative[0].label)))
            continue;
        text = join(text, varying ? ", " : "  \xc2\xb7  ", ks_axis_name(axis),
                    shorten(ks_sheet_label(s->job, axis, at[a])));
    }
    return text;
}

/* Steps to the next combination of the axes that are neither x nor y; false after the last. */
static bool next_combination(const sheet *s, uint64_t at[KS_AXES])
{
    bool more = false;
    for (int a = KS_AXES - 1; a >= 0 && !more; a--) {
        if (s->job->behind[a] || is_shown(s, (ks_axis)a))
            continue;
        more = ++at[a] < ks_job_axis_size(s->job, (ks_axis)a);
        at[a] = more ? at[a] : 0;
    }
    for (int a = 0; a < KS_AXES; a++)
        at[a] = at[ks_job_leader(s->job, (ks_axis)a)];
    return more;
}

static uint64_t ceil_root(uint64_t n)
{
    uint64_t r = 1;
    while (r * r < n)
        r++;
    return r;
}

/* A long x axis without a y axis is laid out in several rows, a little wider than high. */
static uint64_t columns_of(const sheet *s)
{
    if (s->ny > 1 || s->nx <= KS_SHEET_WIDE || (s->options->x && s->options->y))
        return s->nx;
    return ceil_root(s->nx + s->nx / 2);
}

static int check_size(const sheet *s, ks_error *err)
{
    uint64_t cells = ks_job_samples(s->job),
             most = (uint64_t)(s->options->max_cells ? s->options->max_cells : MOST_CELLS);
    if (cells != ks_output_info(s->output)->samples)
        return ks_error_set(
            err, "the job has %llu samples and the output %llu: this is not the output's job",
            (unsigned long long)cells, (unsigned long long)ks_output_info(s->output)->samples);
    if (cells <= most)
        return 0;
    return ks_error_set(err, "%s: a sheet of %llu pictures is too large: at most %llu are drawn",
                        s->options->png, (unsigned long long)cells, (unsigned long long)most);
}

static void list_blocks(sheet *s)
{
    uint64_t at[KS_AXES] = {0};
    s->columns = columns_of(s);
    s->blocks = 0;
    s->block = ks_calloc((size_t)ks_job_samples(s->job), sizeof *s->block);
    do {
        for (uint64_t x0 = 0; x0 < s->nx; x0 += s->columns) {
            sheet_block *b = &s->block[s->blocks++];
            memcpy(b->at, at, sizeof at);
            b->x0 = x0;
            b->columns = s->nx - x0 < s->columns ? s->nx - x0 : s->columns;
            b->title = x0 ? NULL : describe(s, at, true);
            if (b->title && !*b->title) {
                free(b->title);
                b->title = NULL;
            }
        }
    } while (next_combination(s, at));
}

static const char *name_of_path(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* --- sizes --- */

static void size_cells(sheet *s)
{
    const ks_store_info *info = ks_output_info(s->output);
    int scale = info->images ? 8 : 1, wanted = s->options->cell;
    s->source_w = info->width * scale;
    s->source_h = info->height * scale;
    int longer = s->source_w > s->source_h ? s->source_w : s->source_h;
    if (!wanted)
        wanted = longer * ((SMALLEST_CELL + longer - 1) / longer);
    s->cell_w = (int)((int64_t)s->source_w * wanted / longer);
    s->cell_h = (int)((int64_t)s->source_h * wanted / longer);
    s->cell_w = s->cell_w < 8 ? 8 : s->cell_w;
    s->cell_h = s->cell_h < 8 ? 8 : s->cell_h;
    int em = longer ? wanted / 18 : 0;
    s->em = em < 14 ? 14 : em > 32 ? 32 : em;
    s->gap = s->em / 3;
    s->margin = s->em;
}

/* The widest line of a text that is wrapped at width; *lines grows to the number of lines. */
static int measure(ks_font *f, const char *text, int width, int most_lines, int *lines)
{
    ks_text_line line[MOST_LINES];
    int widest = 0, n = ks_text_wrap(f, text, width, line, most_lines);
    for (int i = 0; i < n; i++)
        widest = line[i].width > widest ? line[i].width : widest;
    *lines = n > *lines ? n : *lines;
    return widest;
}

/* Lines that fit beside a cell. */
static int row_lines(const sheet *s)
{
    int n = s->cell_h / ks_font_line(s->font);
    return n < 1 ? 1 : n > MOST_LINES ? MOST_LINES : n;
}

static void size_labels(sheet *s)
{
    int lines = 0, most = 14 * s->em;
    s->label_w = 0;
    if (s->ny > 1) {
        s->label_w = measure(s->font, ks_axis_name(s->y), most, 1, &lines);
        for (uint64_t k = 0; k < s->ny; k++) {
            char *label = ks_sheet_label(s->job, s->y, k);
            int w = measure(s->font, label, most, row_lines(s), &lines);
            s->label_w = w > s->label_w ? w : s->label_w;
            free(label);
        }
        s->label_w += s->em * 2 / 3;
    }
    lines = 1;
    for (uint64_t k = 0; k < s->nx; k++) {
        char *label = ks_sheet_label(s->job, s->x, k);
        measure(s->font, label, s->cell_w - s->gap, COLUMN_LINES, &lines);
        free(label);
    }
    s->column_h = (lines + 1) * ks_font_line(s->font) + s->gap; /* with the axis' name above them */
}

static int size_sheet(sheet *s, ks_error *err)
{
    int lines = 0, narrowest = 24 * s->em;
    int64_t grid = (int64_t)s->columns * (s->cell_w + s->gap) - s->gap;
    int64_t width = 2 * (int64_t)s->margin + s->label_w + grid;
    width = width < narrowest ? narrowest : width;
    if (width > INT32_MAX / 4)
        return ks_error_set(
            err, "%s: a sheet of %lld pixels' width cannot be drawn; choose a smaller cell",
            s->options->png, (long long)width);
    s->width = (int)width;
    if (*s->facts)
        measure(s->font, s->facts, s->width - 2 * s->margin, HEADING_LINES, &lines);
    s->heading_h = ks_font_line(s->bold) + lines * ks_font_line(s->font) + s->em;
    int64_t height = 2 * (int64_t)s->margin + s->heading_h;
    for (uint64_t k = 0; k < s->blocks; k++) {
        sheet_block *b = &s->block[k];
        lines = 0;
        if (b->title) {
            measure(s->bold, b->title, s->width - 2 * s->margin, TITLE_LINES, &lines);
            b->title_h = lines * ks_font_line(s->bold) + s->gap;
        }
        height += b->title_h + s->column_h + s->em + (int64_t)s->ny * (s->cell_h + s->gap);
    }
    if (height > INT32_MAX / 4)
        return ks_error_set(
            err, "%s: a sheet of %lld pixels' height cannot be drawn; choose a smaller cell",
            s->options->png, (long long)height);
    s->height = (int)height - s->gap - s->em;
    return 0;
}

/* --- drawing --- */

/* Lines of text in a box of the given width: place 0 left, 1 centred, 2 right; from y on, or ending
 * at y. */
static void draw_text(sheet *s, ks_font *f, const char *text, int x, int y, int width,
                      int most_lines, int place, bool upwards, uint32_t colour)
{
    ks_text_line line[MOST_LINES];
    int n = ks_text_wrap(f, text, width, line, most_lines);
    if (upwards)
        y -= n * ks_font_line(f);
    for (int i = 0; i < n; i++)
        ks_text_draw(&s->picture, f, x + (width - line[i].width) * place / 2,
                     y + i * ks_font_line(f), &line[i], colour);
}

static void draw_row_label(sheet *s, uint64_t k, int y)
{
    int lines = 0, width = s->label_w - s->em * 2 / 3;
    char *label = ks_sheet_label(s->job, s->y, k);
    measure(s->font, label, width, row_lines(s), &lines);
    draw_text(s, s->font, label, s->margin, y + (s->cell_h - lines * ks_font_line(s->font)) / 2,
              width, row_lines(s), 2, false, INK);
    free(label);
}

/* Names of both axes, and the labels along x, which end at y. */
static void draw_column_labels(sheet *s, const sheet_block *b, int y)
{
    int left = s->margin + s->label_w;
    draw_text(s, s->font, ks_axis_name(s->x), left, y - s->column_h, s->width - s->margin - left, 1,
              0, false, FAINT_INK);
    if (s->ny > 1)
        draw_text(s, s->font, ks_axis_name(s->y), s->margin, y - s->gap, s->label_w - s->em * 2 / 3,
                  1, 2, true, FAINT_INK);
    for (uint64_t i = 0; i < b->columns; i++) {
        char *label = ks_sheet_label(s->job, s->x, b->x0 + i);
        draw_text(s, s->font, label, left + (int)i * (s->cell_w + s->gap) + s->gap / 2, y - s->gap,
                  s->cell_w - s->gap, COLUMN_LINES, 1, true, INK);
        free(label);
    }
}

/* A crossed box with a word in its middle. */
static void draw_word(sheet *s, const char *word, int x, int y, uint32_t colour)
{
    ks_text_line line;
    int w = s->cell_w, h = s->cell_h, high = ks_font_line(s->font);
    ks_picture_fill(&s->picture, x, y, w, h, NOTHING);
    ks_picture_line(&s->picture, x, y, x + w - 1, y + h - 1, RULE);
    ks_picture_line(&s->picture, x, y + h - 1, x + w - 1, y, RULE);
    ks_picture_frame(&s->picture, x, y, w, h, RULE);
    ks_text_wrap(s->font, word, w, &line, 1);
    int left = x + (w - line.width) / 2, top = y + (h - high) / 2;
    ks_picture_fill(&s->picture, left - s->gap, top, line.width + 2 * s->gap, high, NOTHING);
    ks_text_draw(&s->picture, s->font, left, top, &line, colour);
}

static int draw_cell(sheet *s, uint64_t index, int x, int y, ks_error *err)
{
    uint64_t r;
    ks_row row;
    if (ks_output_find(s->output, index, &r, err) || ks_output_row(s->output, r, &row, err))
        return -1;
    if (row.status != KS_DONE) {
        draw_word(s, row.status == KS_FAILED ? "failed" : "missing", x, y,
                  row.status == KS_FAILED ? FAILURE : FAINT_INK);
        return 0;
    }
    if (s->preview) {
        if (ks_output_latent(s->output, r, s->latent, err))
            return -1;
        ks_preview_draw(s->preview, s->latent, (size_t)s->source_w * (size_t)s->source_h, s->rgb);
    } else if (ks_output_image(s->output, r, s->rgb, err)) {
        return -1;
    }
    ks_picture_paste(&s->picture, x, y, s->cell_w, s->cell_h, s->rgb, s->source_w, s->source_h);
    return 0;
}

/* Draws a block from y on; *y moves behind it. */
static int draw_block(sheet *s, const sheet_block *b, int *y, ks_error *err)
{
    int left = s->margin + s->label_w;
    uint64_t at[KS_AXES];
    memcpy(at, b->at, sizeof at);
    if (b->title) {
        draw_text(s, s->bold, b->title, s->margin, *y, s->width - 2 * s->margin, TITLE_LINES, 0,
                  false, INK);
        *y += b->title_h;
    }
    *y += s->column_h;
    draw_column_labels(s, b, *y);
    for (uint64_t j = 0; j < s->ny; j++, *y += s->cell_h + s->gap) {
        if (s->ny > 1)
            draw_row_label(s, j, *y);
        at[ks_job_leader(s->job, s->y)] = j;
        for (uint64_t i = 0; i < b->columns; i++) {
            at[ks_job_leader(s->job, s->x)] = b->x0 + i;
            if (draw_cell(s, ks_job_index(s->job, at), left + (int)i * (s->cell_w + s->gap), *y,
                          err))
                return -1;
        }
    }
    *y += s->em;
    return 0;
}

/* Fits the preview to done samples spread over the sheet. */
static int fit_preview(sheet *s, ks_error *err)
{
    const ks_store_info *info = ks_output_info(s->output);
    uint64_t step = info->samples / FIT_LATENTS + 1;
    s->preview = ks_calloc(1, sizeof *s->preview);
    for (uint64_t index = 0; index < info->samples; index += step) {
        uint64_t r;
        ks_row row;
        if (ks_output_find(s->output, index, &r, err) || ks_output_row(s->output, r, &row, err))
            return -1;
        if (row.status != KS_DONE)
            continue;
        if (ks_output_latent(s->output, r, s->latent, err))
            return -1;
        ks_preview_add(s->preview, info->channels, s->latent,
                       (size_t)info->height * (size_t)info->width);
    }
    ks_preview_fit(s->preview);
    return 0;
}

static int draw_all(sheet *s, ks_error *err)
{
    int y = s->margin, wide = s->width - 2 * s->margin;
    if (ks_picture_new(&s->picture, s->width, s->height, PAPER >> 16 & 255, PAPER >> 8 & 255,
                       PAPER & 255, err))
        return ks_error_wrap(err, "%s", s->options->png);
    draw_text(s, s->bold, s->heading, s->margin, y, wide, 1, 0, false, INK);
    if (*s->facts)
        draw_text(s, s->font, s->facts, s->margin, y + ks_font_line(s->bold), wide, HEADING_LINES,
                  0, false, FAINT_INK);
    y += s->heading_h;
    for (uint64_t b = 0; b < s->blocks; b++)
        if (draw_block(s, &s->block[b], &y, err))
            return -1;
    return ks_png_write(s->options->png, &s->picture, err);
}

static void free_sheet(sheet *s)
{
    for (uint64_t b = 0; b < s->blocks; b++)
        free(s->block[b].title);
    free(s->block);
    free(s->heading);
    free(s->facts);
    free(s->preview);
    free(s->rgb);
    free(s->latent);
    ks_font_free(s->font);
    ks_font_free(s->bold);
    ks_picture_free(&s->picture);
}

/* Everything that is known before the first pixel. */
static int plan(sheet *s, ks_error *err)
{
    const ks_store_info *info = ks_output_info(s->output);
    const uint64_t first[KS_AXES] = {0};
    if (s->options->cell < 0 || s->options->cell > LARGEST_CELL)
        return ks_error_set(err,
                            "a cell of %d pixels cannot be drawn: 8 to %d are possible, 0 takes "
                            "the pictures' own size",
                            s->options->cell, LARGEST_CELL);
    if (check_size(s, err) ||
        ks_sheet_choose(s->job, s->options->x, s->options->y, &s->x, &s->y, err))
        return -1;
    s->nx = ks_job_axis_size(s->job, s->x);
    s->ny = ks_job_axis_size(s->job, s->y);
    s->heading = ks_format("%s%s", name_of_path(info->model),
                           info->images ? "" : "  (latents, not decoded)");
    s->facts = describe(s, first, false);
    list_blocks(s);
    size_cells(s);
    s->font = ks_font_open(s->em, false, err);
    s->bold = s->font ? ks_font_open(s->em, true, err) : NULL;
    if (!s->bold)
        return -1;
    size_labels(s);
    s->rgb = ks_calloc((size_t)s->source_w * (size_t)s->source_h, 3);
    s->latent = ks_calloc((size_t)info->channels * (size_t)info->height * (size_t)info->width,
                          sizeof *s->latent);
    return size_sheet(s, err);
}

int ks_sheet_draw(ks_output *o, const ks_job *job, const ks_sheet_options *options, ks_error *err)
{
    sheet s = {.output = o, .job = job, .options = options};
    int status = plan(&s, err);
    if (!status && !ks_output_info(o)->images)
        status = fit_preview(&s, err);
    if (!status)
        status = draw_all(&s, err);
    free_sheet(&s);
    return status;
}
