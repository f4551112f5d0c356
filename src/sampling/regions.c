#include "sampling/regions.h"

#include <math.h>
#include <string.h>

enum { FEATHER = 8, SMALLEST_BOUNDS = 8 };

static int larger(int a, int b)
{
    return a > b ? a : b;
}

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

/* --- areas --- */

ks_window ks_area_of_shares(const double share[4], int height, int width)
{
    return (ks_window){.h = larger(1, (int)rint(share[0] * height)),
                       .w = larger(1, (int)rint(share[1] * width)),
                       .y = (int)rint(share[2] * height),
                       .x = (int)rint(share[3] * width)};
}

ks_window ks_area_of_masks(const float *mask, int count, int height, int width)
{
    int top = height, left = width, bottom = -1, right = -1;
    for (int k = 0; k < count * height; k++)
        for (int x = 0; x < width; x++) {
            int y = k % height;
            if (mask[(size_t)k * (size_t)width + (size_t)x] == 0)
                continue;
            top = smaller(top, y);
            bottom = larger(bottom, y);
            left = smaller(left, x);
            right = larger(right, x);
        }
    if (bottom < 0)
        return (ks_window){.h = SMALLEST_BOUNDS, .w = SMALLEST_BOUNDS};
    return (ks_window){.y = top,
                       .x = left,
                       .h = larger(SMALLEST_BOUNDS, bottom - top + 1),
                       .w = larger(SMALLEST_BOUNDS, right - left + 1)};
}

bool ks_area_clip(ks_window *area, int height, int width)
{
    area->h = smaller(area->h, height - area->y);
    area->w = smaller(area->w, width - area->x);
    return area->y >= 0 && area->x >= 0 && area->h > 0 && area->w > 0;
}

bool ks_area_holds(const ks_window *area, const ks_window *inside)
{
    return inside->y >= area->y && inside->x >= area->x &&
           inside->y + inside->h <= area->y + area->h && inside->x + inside->w <= area->x + area->w;
}

bool ks_area_equal(const ks_window *a, const ks_window *b)
{
    return a->y == b->y && a->x == b->x && a->h == b->h && a->w == b->w;
}

/* Factor of line t of a side of `length` lines that fades out where fade says so. */
static double fade_in(int t, int length, bool fade)
{
    int reach = smaller(FEATHER, length / 4);
    return fade && t < reach ? (double)(t + 1) / reach : 1;
}

void ks_area_feather(ks_window at, int height, int width, float *weight)
{
    bool top = at.y > 0, bottom = at.y + at.h < height;
    bool left = at.x > 0, right = at.x + at.w < width;
    for (int y = 0; y < at.h; y++) {
        double line = fade_in(y, at.h, top) * fade_in(at.h - 1 - y, at.h, bottom);
        for (int x = 0; x < at.w; x++) {
            double cell = fade_in(x, at.w, left) * fade_in(at.w - 1 - x, at.w, right);
            *weight++ = (float)(line * cell);
        }
    }
}

/* --- resizing --- */

/* Where output i comes from along one side: between lines `low` and `high`, `share` of the latter.
 * In float32, as torch has it. */
typedef struct source {
    int low, high;
    float share;
} source;

static source source_of(int i, int length, int to_length)
{
    float scale = (float)length / (float)to_length;
    float at = scale * ((float)i + 0.5F) - 0.5F;
    at = at > 0 ? at : 0;
    int low = smaller((int)at, length - 1);
    return (source){low, smaller(low + 1, length - 1), at - (float)low};
}

static float mix(float a, float b, float share)
{
    return (1 - share) * a + share * b;
}

void ks_resize_bilinear(const float *in, int count, int height, int width, float *out,
                        int to_height, int to_width)
{
    if (height == to_height && width == to_width) {
        memcpy(out, in, (size_t)count * (size_t)height * (size_t)width * sizeof *out);
        return;
    }
    for (int k = 0; k < count; k++) {
        const float *picture = in + (ptrdiff_t)k * height * width;
        for (int i = 0; i < to_height; i++) {
            source y = source_of(i, height, to_height);
            const float *above = picture + (ptrdiff_t)y.low * width;
            const float *below = picture + (ptrdiff_t)y.high * width;
            for (int j = 0; j < to_width; j++) {
                source x = source_of(j, width, to_width);
                *out++ = mix(mix(above[x.low], above[x.high], x.share),
                             mix(below[x.low], below[x.high], x.share), y.share);
            }
        }
    }
}
