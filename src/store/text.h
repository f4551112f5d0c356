/* Text on pictures: a sans-serif font found by fontconfig, drawn by FreeType. */
#ifndef KS_STORE_TEXT_H
#define KS_STORE_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "store/png.h"

typedef struct ks_font ks_font;

/* pixels: the em's size. What the first font has no glyph for comes from the next that has one. An
 * error when fontconfig knows no font at all. */
ks_font *ks_font_open(int pixels, bool bold, ks_error *err);
void ks_font_free(ks_font *f);
int ks_font_line(const ks_font *f); /* pixels from one line to the next */

/* Part of a UTF-8 text. What is no UTF-8 shows as U+FFFD. */
typedef struct ks_text_line {
    const char *text;
    size_t size;
    int width;
    bool cut; /* an ellipsis follows; width counts it */
} ks_text_line;

/* Breaks the text at spaces and line ends, in a word only where it is wider than a line; after
 * most_lines it is cut with an ellipsis. How many lines: at least 1. */
int ks_text_wrap(ks_font *f, const char *text, int width, ks_text_line *lines, int most_lines);

/* x, y: the line's left upper corner. */
void ks_text_draw(ks_picture *p, ks_font *f, int x, int y, const ks_text_line *line,
                  uint32_t colour);

#endif
