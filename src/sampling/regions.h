/* Areas and masks of a latent, in its cells: where a conditioning counts and how much.
 *
 * An area may reach beyond the latent until it is clipped; areas are compared as they were given.
 */
#ifndef KS_SAMPLING_REGIONS_H
#define KS_SAMPLING_REGIONS_H

#include <stdbool.h>

#include "backend/ops.h"

/* The area of shares {height, width, y, x} of a latent: rounded to cells, half to even, at least
 * one cell. */
ks_window ks_area_of_shares(const double share[4], int height, int width);

/* What the masks [count, height, width] hold that is not 0, and at least 8 x 8 cells; those at the
 * corner when there is nothing. */
ks_window ks_area_of_masks(const float *mask, int count, int height, int width);

/* Cuts the area off at the latent's edges; false when nothing is left. */
bool ks_area_clip(ks_window *area, int height, int width);

/* Whether `inside` lies within `area`, and whether they are the same. */
bool ks_area_holds(const ks_window *area, const ks_window *inside);
bool ks_area_equal(const ks_window *a, const ks_window *b);

/* Weights [at.h, at.w] of a clipped area that fade out over up to 8 cells, or a quarter of the
 * side, towards every side that is not the latent's own edge. */
void ks_area_feather(ks_window at, int height, int width, float *weight);

/* count pictures [height, width] resized to [to_height, to_width]: bilinear, pixel centres aligned,
 * every output from its two by two neighbours however far it is scaled down (torch's
 * interpolate, align_corners false, no antialiasing). */
void ks_resize_bilinear(const float *in, int count, int height, int width, float *out,
                        int to_height, int to_width);

#endif
