/* What a checkpoint is: read from its tensors' shapes, and from the JSON beside it (same stem) for
 * what shapes cannot tell. File names are never looked at. */
#ifndef KS_MODEL_CONFIG_H
#define KS_MODEL_CONFIG_H

#include <stdbool.h>

#include "base/error.h"
#include "model/safetensors.h"
#include "sampling/schedule.h"

enum { KS_MAX_LEVELS = 8, KS_MAX_BLOCKS = 8 };

typedef struct ks_unet_config {
    char prefix[64]; /* "model.diffusion_model." or "" */
    int in_channels, out_channels, model_channels, levels;
    int channel_mult[KS_MAX_LEVELS]; /* finest level first */
    int res_blocks[KS_MAX_LEVELS];
    int depth_in[KS_MAX_LEVELS][KS_MAX_BLOCKS]; /* transformer blocks after input block b; 0 none */
    int depth_out[KS_MAX_LEVELS][KS_MAX_BLOCKS + 1]; /* of output blocks, in the order they run */
    int depth_middle;        /* -1: the middle is one residual block, with no transformer */
    bool linear_projections; /* SD 2.x, SDXL: proj_in/out are linear; SD 1.x: 1x1 convolutions */
    int context_dim;
    int adm_channels; /* width of the vector y; 0 none */
    int heads;        /* heads everywhere, or 0 when head_channels counts */
    int head_channels;
} ks_unet_config;

typedef struct ks_text_config { /* CLIP text model */
    bool present;
    char prefix[80]; /* "cond_stage_model.transformer.text_model." */
    int vocab, tokens, width, layers, heads, hidden;
    bool quick_gelu; /* else exact gelu */
} ks_text_config;

typedef struct ks_vae_config { /* decoder of AutoencoderKL */
    bool present;
    char prefix[64]; /* "first_stage_model." */
    int z_channels, embed_channels, out_channels, levels, res_blocks;
    int channels[KS_MAX_LEVELS]; /* of each level, finest first */
} ks_vae_config;

typedef struct ks_model_config {
    char family[16]; /* "sd15", "sd2", "sdxl", or the JSON's "arch" */
    ks_unet_config unet;
    ks_text_config text;
    ks_vae_config vae;
    double latent_scale_factor;
    double linear_start, linear_end;
    ks_prediction prediction; /* as far as the file or its JSON tells, see ks_model_detect */
    bool zsnr;
    bool from_json;            /* a JSON beside the file was read */
    int64_t parameters, bytes; /* of the UNet */
    char dtype[8];             /* of the UNet's weights, the most common one: "F16" */
} ks_model_config;

/* The config of an open file. Fails with one sentence when it is no model we know, or a tensor that
 * the UNet, the text encoder or the VAE decoder needs is absent or of another shape.
 *
 * prediction: the JSON's sampling.prediction; else v where the file holds a tensor "v_pred" (and
 * zsnr where it also holds "ztsnr"); else, for SD 2.x, by the rule that ComfyUI has for it: v where
 * the standard deviation of output_blocks.11.1.transformer_blocks.0.norm1.bias is above 0.09. Else
 * eps. */
int ks_model_detect(const ks_safetensors *st, ks_model_config *config, ks_error *err);

/* The config for people, several lines. free() it. */
char *ks_model_describe(const ks_model_config *config);

#endif
