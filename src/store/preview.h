/* A linear look at latents without a decoder: the three directions in which a set of latents varies
 * most, as brightness and two opposed colours, each scaled to the set. It needs no knowledge of the
 * model. */
#ifndef KS_STORE_PREVIEW_H
#define KS_STORE_PREVIEW_H

#include <stddef.h>
#include <stdint.h>

enum { KS_PREVIEW_CHANNELS = 64 }; /* further channels are not looked at */

typedef struct ks_preview {
    int channels;
    double pixels; /* seen */
    double sum[KS_PREVIEW_CHANNELS];
    double product[KS_PREVIEW_CHANNELS][KS_PREVIEW_CHANNELS];
    double weight[3][KS_PREVIEW_CHANNELS], offset[3]; /* set by ks_preview_fit */
} ks_preview;

/* Adds a latent [channels, pixels] to the set that is fitted. Values that are not finite are passed
 * over. */
void ks_preview_add(ks_preview *p, int channels, const float *latent, size_t pixels);

/* Principal directions of all latents added (Jacobi's method on the covariance). */
void ks_preview_fit(ks_preview *p);

/* rgb: [pixels, 3]. */
void ks_preview_draw(const ks_preview *p, const float *latent, size_t pixels, uint8_t *rgb);

#endif
