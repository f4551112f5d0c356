#include "store/png.h"

#include <png.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { MOST_PIXELS = 1 << 28 };

int ks_picture_new(ks_picture *p, int width, int height, uint8_t r, uint8_t g, uint8_t b,
                   ks_error *err)
{
    *p = (ks_picture){width, height, NULL};
    if (width < 1 || height < 1 || (int64_t)width * height > MOST_PIXELS)
        return ks_error_set(
            err, "a picture of %d x %d pixels cannot be made: it must have 1 to %d pixels", width,
            height, MOST_PIXELS);
    p->rgb = malloc((size_t)width * (size_t)height * 3);
    if (!p->rgb)
        return ks_error_set(err, "no memory for a picture of %d x %d pixels", width, height);
    ks_picture_fill(p, 0, 0, width, height, (uint32_t)r << 16 | (uint32_t)g << 8 | b);
    return 0;
}

void ks_picture_free(ks_picture *p)
{
    free(p->rgb);
    *p = (ks_picture){0};
}

static uint8_t *pixel(const ks_picture *p, int x, int y)
{
    if (x < 0 || y < 0 || x >= p->width || y >= p->height)
        return NULL;
    return p->rgb + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
}

void ks_picture_blend(ks_picture *p, int x, int y, uint32_t colour, unsigned coverage)
{
    uint8_t *at = pixel(p, x, y);
    for (int k = 0; k < 3 && at; k++) {
        unsigned top = colour >> (16 - 8 * k) & 255;
        at[k] = (uint8_t)((top * coverage + at[k] * (255 - coverage) + 127) / 255);
    }
}

void ks_picture_fill(ks_picture *p, int x, int y, int width, int height, uint32_t colour)
{
    for (int j = y; j < y + height; j++)
        for (int i = x; i < x + width; i++)
            ks_picture_blend(p, i, j, colour, 255);
}

void ks_picture_frame(ks_picture *p, int x, int y, int width, int height, uint32_t colour)
{
    ks_picture_fill(p, x, y, width, 1, colour);
    ks_picture_fill(p, x, y + height - 1, width, 1, colour);
    ks_picture_fill(p, x, y, 1, height, colour);
    ks_picture_fill(p, x + width - 1, y, 1, height, colour);
}

/* Along the longer side, each step shared by the two pixels nearest to the line. */
void ks_picture_line(ks_picture *p, int x0, int y0, int x1, int y1, uint32_t colour)
{
    int dx = abs(x1 - x0), dy = abs(y1 - y0), steps = dx > dy ? dx : dy;
    for (int i = 0; i <= steps; i++) {
        double t = steps ? (double)i / steps : 0, x = x0 + t * (x1 - x0), y = y0 + t * (y1 - y0);
        int left = (int)x, top = (int)y;
        unsigned part = (unsigned)(255 * (dx > dy ? y - top : x - left));
        ks_picture_blend(p, left, top, colour, 255 - part);
        ks_picture_blend(p, dx > dy ? left : left + 1, dx > dy ? top + 1 : top, colour, part);
    }
}

/* Mean of rgb over columns [x0, x1) and rows [y0, y1), edges counted by their part. */
static void mean_of(const uint8_t *rgb, int w, int h, double x0, double x1, double y0, double y1,
                    uint8_t out[3])
{
    double sum[3] = {0}, area = 0;
    for (int j = (int)y0; j < h && j < y1; j++) {
        double part_y = (j + 1 < y1 ? j + 1 : y1) - (j > y0 ? j : y0);
        for (int i = (int)x0; i < w && i < x1; i++) {
            double part = part_y * ((i + 1 < x1 ? i + 1 : x1) - (i > x0 ? i : x0));
            const uint8_t *at = rgb + ((size_t)j * (size_t)w + (size_t)i) * 3;
            for (int k = 0; k < 3; k++)
                sum[k] += part * at[k];
            area += part;
        }
    }
    for (int k = 0; k < 3; k++)
        out[k] = (uint8_t)(area > 0 ? sum[k] / area + 0.5 : 0);
}

void ks_picture_paste(ks_picture *p, int x, int y, int width, int height, const uint8_t *rgb, int w,
                      int h)
{
    for (int j = 0; j < height; j++)
        for (int i = 0; i < width; i++) {
            uint8_t *at = pixel(p, x + i, y + j);
            if (at)
                mean_of(rgb, w, h, (double)i * w / width, (double)(i + 1) * w / width,
                        (double)j * h / height, (double)(j + 1) * h / height, at);
        }
}

int ks_png_write(const char *path, const ks_picture *p, ks_error *err)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)p->width,
                       .height = (png_uint_32)p->height,
                       .format = PNG_FORMAT_RGB};
    if (png_image_write_to_file(&image, path, 0, p->rgb, 0, NULL))
        return 0;
    ks_error_set(err, "%s: cannot write the PNG file: %s", path, image.message);
    png_image_free(&image);
    return -1;
}

bool ks_png_is(const char *path)
{
    static const unsigned char signature[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
    return ks_file_begins(path, signature, sizeof signature);
}
