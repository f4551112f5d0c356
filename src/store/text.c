#include "store/text.h"

#include <fontconfig/fontconfig.h>
#include <ft2build.h>
#include FT_FREETYPE_H
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

static const char ELLIPSIS[] = "\xe2\x80\xa6";

struct ks_font {
    FT_Library library;
    FcConfig *config;
    FcFontSet *set; /* best first */
    FT_Face *face;  /* [set->nfont], opened when needed */
    bool *tried;
    int pixels, ascent, line;
};

static FT_Face open_face(ks_font *f, int i)
{
    FcChar8 *file;
    int index = 0;
    if (f->tried[i])
        return f->face[i];
    f->tried[i] = true;
    if (FcPatternGetString(f->set->fonts[i], FC_FILE, 0, &file) != FcResultMatch)
        return NULL;
    FcPatternGetInteger(f->set->fonts[i], FC_INDEX, 0, &index);
    if (FT_New_Face(f->library, (const char *)file, index, &f->face[i]))
        return f->face[i] = NULL;
    if (FT_Set_Pixel_Sizes(f->face[i], 0, (FT_UInt)f->pixels)) { /* a bitmap font of another size */
        FT_Done_Face(f->face[i]);
        f->face[i] = NULL;
    }
    return f->face[i];
}

static FcFontSet *sorted_fonts(FcConfig *config, bool bold)
{
    FcResult result;
    FcPattern *wanted = FcNameParse((const FcChar8 *)"sans");
    FcPatternAddInteger(wanted, FC_WEIGHT, bold ? FC_WEIGHT_BOLD : FC_WEIGHT_REGULAR);
    FcConfigSubstitute(config, wanted, FcMatchPattern);
    FcDefaultSubstitute(wanted);
    FcFontSet *set = FcFontSort(config, wanted, FcTrue, NULL, &result);
    FcPatternDestroy(wanted);
    return set;
}

/* The first font that opens decides the line's height. */
static int measure_lines(ks_font *f)
{
    for (int i = 0; i < f->set->nfont; i++) {
        FT_Face face = open_face(f, i);
        if (!face)
            continue;
        f->ascent = (int)(face->size->metrics.ascender + 63) >> 6;
        f->line = (int)(face->size->metrics.height + 63) >> 6;
        return 0;
    }
    return -1;
}

ks_font *ks_font_open(int pixels, bool bold, ks_error *err)
{
    ks_font *f = ks_calloc(1, sizeof *f);
    f->pixels = pixels;
    f->config = FcInitLoadConfigAndFonts();
    f->set = f->config ? sorted_fonts(f->config, bold) : NULL;
    if (f->set) {
        f->face = ks_calloc((size_t)f->set->nfont + 1, sizeof(FT_Face));
        f->tried = ks_calloc((size_t)f->set->nfont + 1, sizeof *f->tried);
    }
    if (f->set && !FT_Init_FreeType(&f->library) && !measure_lines(f))
        return f;
    ks_error_set(err, "there is no font to write labels with: fontconfig finds none for \"sans\" "
                      "(fc-match sans); "
                      "install one, such as fonts-dejavu-core");
    ks_font_free(f);
    return NULL;
}

void ks_font_free(ks_font *f)
{
    if (!f)
        return;
    for (int i = 0; f->face && i < f->set->nfont; i++)
        if (f->face[i])
            FT_Done_Face(f->face[i]);
    if (f->library)
        FT_Done_FreeType(f->library);
    if (f->set)
        FcFontSetDestroy(f->set);
    if (f->config)
        FcConfigDestroy(f->config);
    free(f->face);
    free(f->tried);
    free(f);
}

int ks_font_line(const ks_font *f)
{
    return f->line;
}

/* The code point at *at, which moves behind it. */
static uint32_t next_point(const char **at, const char *end)
{
    FcChar32 point = 0xfffd;
    int size = FcUtf8ToUcs4((const FcChar8 *)*at, &point, (int)(end - *at));
    *at += size > 0 ? size : 1;
    return size > 0 ? (uint32_t)point : 0xfffd;
}

/* The face that has the code point, else the first that opens (which shows its box). Control
 * characters are blanks. */
static FT_Face face_for(ks_font *f, uint32_t point, FT_UInt *glyph)
{
    FT_Face first = NULL;
    for (int i = 0; i < f->set->nfont; i++) {
        FcCharSet *has;
        bool maybe = FcPatternGetCharSet(f->set->fonts[i], FC_CHARSET, 0, &has) != FcResultMatch ||
                     FcCharSetHasChar(has, point);
        if (first && !maybe)
            continue;
        FT_Face face = open_face(f, i);
        if (!face)
            continue;
        *glyph = FT_Get_Char_Index(face, point);
        if (*glyph)
            return face;
        first = first ? first : face;
    }
    *glyph = 0;
    return first;
}

/* Loads the glyph of a code point into its face's slot. Returns its advance in 1/64 pixel. */
static long load_glyph(ks_font *f, uint32_t point, bool render, FT_Face *face)
{
    FT_UInt glyph;
    *face = face_for(f, point < 32 ? ' ' : point, &glyph);
    if (FT_Load_Glyph(*face, glyph, render ? FT_LOAD_RENDER : FT_LOAD_DEFAULT))
        return 0;
    return (*face)->glyph->advance.x;
}

static long advance_of(ks_font *f, const char *text, size_t size)
{
    long sum = 0;
    FT_Face face;
    for (const char *at = text, *end = text + size; at < end;)
        sum += load_glyph(f, next_point(&at, end), false, &face);
    return sum;
}

static int width_of(ks_font *f, const char *text, size_t size)
{
    return (int)((advance_of(f, text, size) + 63) >> 6);
}

/* Takes one line off *text: up to the last space that fits, else as many characters as fit (at
 * least one). */
static ks_text_line take_line(ks_font *f, const char **text, int width)
{
    const char *start = *text, *end = start + strcspn(start, "\n"), *at = start, *fits = start,
               *space = NULL;
    long sum = 0;
    FT_Face face;
    while (at < end) {
        const char *before = at;
        uint32_t point = next_point(&at, end);
        if (point == ' ')
            space = before;
        sum += load_glyph(f, point, false, &face);
        if (sum > (long)width * 64 && before > start && point != ' ')
            break;
        fits = at;
    }
    const char *stop = fits == end ? end : space && space > start ? space : fits;
    *text = stop;
    if (stop == end && *stop == '\n')
        ++*text;
    while (stop < end && **text == ' ')
        ++*text;
    while (stop > start && stop[-1] == ' ')
        stop--;
    return (ks_text_line){start, (size_t)(stop - start), width_of(f, start, (size_t)(stop - start)),
                          false};
}

/* Shortens a line until it and an ellipsis fit. */
static void cut_line(ks_font *f, ks_text_line *line, int width)
{
    int dots = width_of(f, ELLIPSIS, sizeof ELLIPSIS - 1);
    while (line->size && line->width + dots > width) {
        do
            line->size--;
        while (line->size && (line->text[line->size] & 0xc0) == 0x80);
        line->width = width_of(f, line->text, line->size);
    }
    line->width += dots;
    line->cut = true;
}

int ks_text_wrap(ks_font *f, const char *text, int width, ks_text_line *lines, int most_lines)
{
    int n = 0;
    do
        lines[n++] = take_line(f, &text, width);
    while (*text && n < most_lines);
    if (*text)
        cut_line(f, &lines[n - 1], width);
    return n;
}

static void draw_glyph(ks_picture *p, const FT_GlyphSlot slot, int x, int baseline, uint32_t colour)
{
    const FT_Bitmap *bitmap = &slot->bitmap;
    if (bitmap->pixel_mode != FT_PIXEL_MODE_GRAY)
        return;
    for (int j = 0; j < (int)bitmap->rows; j++)
        for (int i = 0; i < (int)bitmap->width; i++)
            ks_picture_blend(p, x + slot->bitmap_left + i, baseline - slot->bitmap_top + j, colour,
                             bitmap->buffer[j * bitmap->pitch + i]);
}

static long draw_part(ks_picture *p, ks_font *f, long pen, int baseline, const char *text,
                      size_t size, uint32_t colour)
{
    FT_Face face;
    for (const char *at = text, *end = text + size; at < end;) {
        long advance = load_glyph(f, next_point(&at, end), true, &face);
        draw_glyph(p, face->glyph, (int)(pen >> 6), baseline, colour);
        pen += advance;
    }
    return pen;
}

void ks_text_draw(ks_picture *p, ks_font *f, int x, int y, const ks_text_line *line,
                  uint32_t colour)
{
    long pen = draw_part(p, f, (long)x * 64, y + f->ascent, line->text, line->size, colour);
    if (line->cut)
        draw_part(p, f, pen, y + f->ascent, ELLIPSIS, sizeof ELLIPSIS - 1, colour);
}
