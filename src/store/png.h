/* PNG files and drawing on RGB pictures. */
#ifndef KS_STORE_PNG_H
#define KS_STORE_PNG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ks_picture {
    int width, height;
    uint8_t *rgb; /* [height, width, 3] */
} ks_picture;

/* One plain colour. Refuses sizes of more than 2^28 pixels. */
int ks_picture_new(ks_picture *p, int width, int height, uint8_t r, uint8_t g, uint8_t b,
                   ks_error *err);
void ks_picture_free(ks_picture *p);

/* Drawing, cut at the picture's edges. colour: 0xRRGGBB. */
void ks_picture_fill(ks_picture *p, int x, int y, int width, int height, uint32_t colour);
void ks_picture_frame(ks_picture *p, int x, int y, int width, int height, uint32_t colour);
void ks_picture_line(ks_picture *p, int x0, int y0, int x1, int y1, uint32_t colour);
/* colour over what is there, coverage 0..255. */
void ks_picture_blend(ks_picture *p, int x, int y, uint32_t colour, unsigned coverage);
/* rgb [h, w, 3] scaled to width x height: each pixel is the mean of the area it covers, so that
 * whole factors upwards give plain squares. */
void ks_picture_paste(ks_picture *p, int x, int y, int width, int height, const uint8_t *rgb, int w,
                      int h);

/* Whether the file begins as a PNG does. */
bool ks_png_is(const char *path);
int ks_png_write(const char *path, const ks_picture *p, ks_error *err);

#endif
