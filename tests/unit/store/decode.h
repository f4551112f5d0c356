/* A PNG file's pixels, for tests. */
#ifndef TESTS_UNIT_STORE_DECODE_H
#define TESTS_UNIT_STORE_DECODE_H

#include <png.h>

#include "store/png.h"
#include "unit/store/fixture.h"

FIXTURE ks_picture decode(const char *path)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    assert_true(png_image_begin_read_from_file(&image, path));
    image.format = PNG_FORMAT_RGB;
    ks_picture p = {(int)image.width, (int)image.height, malloc(PNG_IMAGE_SIZE(image))};
    assert_true(png_image_finish_read(&image, NULL, p.rgb, 0, NULL));
    return p;
}

FIXTURE uint32_t colour_at(const ks_picture *p, int x, int y)
{
    const uint8_t *at = p->rgb + ((size_t)y * (size_t)p->width + (size_t)x) * 3;
    return (uint32_t)at[0] << 16 | (uint32_t)at[1] << 8 | at[2];
}

#endif
