/* The decoder of AutoencoderKL (Rombach et al. 2022): latents to pictures, 2 ^ (levels - 1) times
 * as large. */
#ifndef KS_MODEL_VAE_H
#define KS_MODEL_VAE_H

#include "model/blocks.h"
#include "model/config.h"

/* Attention over all pixels with one head. */
typedef struct ks_vae_attention {
    ks_weight *norm, *qkv, *out;
} ks_vae_attention;

typedef struct ks_vae_level {
    int blocks;
    ks_resblock block[KS_MAX_BLOCKS + 1];
    ks_weight *up; /* the convolution after upsampling; NULL at the finest level */
} ks_vae_level;

typedef struct ks_vae {
    const ks_vae_config *config;
    ks_weight *post_quant, *conv_in, *norm_out, *conv_out;
    ks_resblock middle[2];
    ks_vae_attention attention;
    ks_vae_level level[KS_MAX_LEVELS]; /* finest first */
} ks_vae;

/* config must outlive it. -1 after a failure. */
int ks_vae_load(ks_vae *v, ks_loader *l, const ks_vae_config *config);

/* Sides of the picture per side of the latent. */
int ks_vae_factor(const ks_vae_config *config);

/* Queues the decoding of one latent, device [embed_channels, height, width] behind the device
 * pointer at *x. The picture is [1, H, W, out_channels] scratch that lives until the caller
 * unwinds. one: device, the number 1. */
ks_act ks_vae_decode(const ks_vae *v, ks_ops *ops, const float *const *x, const float *one,
                     int height, int width);

#endif
