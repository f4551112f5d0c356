/* The UNet of Stable Diffusion 1.x, 2.x and XL (Ronneberger et al. 2015; Ho et al. 2020; Rombach et
 * al. 2022; Podell et al. 2023), in any width, number of levels and depth of its transformers. */
#ifndef KS_MODEL_UNET_H
#define KS_MODEL_UNET_H

#include "model/blocks.h"
#include "model/config.h"

/* --- its shape, from the config alone --- */

typedef enum ks_unet_part { KS_UNET_INPUT, KS_UNET_MIDDLE, KS_UNET_OUTPUT } ks_unet_part;

/* One entry of input_blocks or output_blocks, or the middle: at most two residual blocks, a
 * transformer after the first, a change of size at the end. */
typedef struct ks_unet_stage {
    ks_unet_part part;
    int index;     /* within its list */
    int level;     /* the latent is halved (rounding up) so often where the stage begins */
    int in, out;   /* channels; of an output stage in counts the skip connection's too */
    int skip;      /* channels of the skip connection that an output stage takes */
    int resblocks; /* 0, 1; 2 in a middle with a transformer */
    bool transformer;
    int depth; /* blocks of the transformer */
    bool conv_in, down, up;
} ks_unet_stage;

enum { KS_UNET_STAGES = 2 * KS_MAX_LEVELS * (KS_MAX_BLOCKS + 1) + 2 };

/* The stages in the order they run; returns their number. */
int ks_unet_stages(const ks_unet_config *c, ks_unet_stage *stage);

/* Size of a side at a level: halved `level` times, rounded up. */
int ks_unet_side(int side, int level);

/* Attention heads of a transformer of c channels. */
int ks_unet_heads(const ks_unet_config *config, int c);

/* --- the network --- */

/* A stage with its parameters. */
typedef struct ks_unet_layer {
    ks_unet_stage shape;
    ks_resblock res[2];
    int time[2]; /* where each residual block's share of the time projection begins */
    ks_transformer transformer;
    ks_weight *conv; /* conv_in, the downsampling or the upsampling convolution */
    int kv;          /* the transformer's first cross-attention layer */
} ks_unet_layer;

/* A cross-attention layer as the conditioning's cache sees it. */
typedef struct ks_kv_layer {
    ks_weight *w; /* context -> [keys, values] */
    int c;        /* channels of each, at this part */
} ks_kv_layer;

typedef struct ks_unet {
    const ks_unet_config *config;
    ks_split split;
    int stages, kv_layers;
    ks_unet_layer *layer; /* [stages] */
    ks_kv_layer *kv;      /* [kv_layers] */
    int embedding;        /* width of the time embedding */
    int time_width;       /* channels of all residual blocks' projections of it, at this part */
    ks_weight *time1, *time2, *time_all, *label1, *label2;
    ks_weight *out_norm, *out_conv;
} ks_unet;

/* Loads the loader's part of it; config must outlive it. Returns -1 after a failure (ks_unet_free it all the same). */
int ks_unet_load(ks_unet *u, ks_loader *l, const ks_unet_config *config);
void ks_unet_free(ks_unet *u);

/* What one call works on; all arrays are on the device. */
typedef struct ks_unet_call {
    int n, height, width;
    const float *const *x;     /* [n] latents */
    float *const *out;         /* [n] */
    const float *scale;        /* [n] the network sees x * scale */
    const float *timestep;     /* [n] */
    const float *const *label; /* [n] embeddings of y, or NULL for a model without y */
    const float *one;          /* [n] ones */
    const ks_kv *kv;           /* [kv_layers], on the host */
} ks_unet_call;

/* Queues one call. */
void ks_unet_run(const ks_unet *u, ks_ops *ops, const ks_unet_call *call);

/* y's embedding, float32 [embedding] to out, from y, both on the device. */
void ks_unet_label(const ks_unet *u, ks_ops *ops, float *out, const float *y);

#endif
