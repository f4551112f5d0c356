/* What UNet, text encoder and VAE decoder are made of: residual blocks and transformers. */
#ifndef KS_MODEL_BLOCKS_H
#define KS_MODEL_BLOCKS_H

#include "backend/ops.h"
#include "model/weights.h"

enum { KS_GROUPS = 32 }; /* of every group norm in these families */

/* A dense activation over memory that is there already. */
ks_act ks_act_on(void *data, int n, int h, int w, int c);

/* Channels first .. first + c of every pixel of a. element: bytes of a number of the compute type.
 */
ks_act ks_act_slice(ks_act a, int first, int c, size_t element);

/* Bytes of a number of the backend's compute type. */
size_t ks_element_size(const ks_ops *ops);

/* Gives device memory back; NULL is none. */
void ks_release(ks_ops *ops, void *memory);

/* y = shortcut(x) + conv2(silu(norm2(conv1(silu(norm1(x))) + time))) (He et al. 2016, as in Ho et
 * al. 2020). Of a split network with a part of the channels between the convolutions. */
typedef struct ks_resblock {
    int in, out;
    ks_split split;
    float eps;
    ks_weight *norm1, *conv1, *norm2, *conv2;
    ks_weight *shortcut; /* 1x1 where in != out, else NULL */
} ks_resblock;

/* The names of its five modules, which the UNet and the VAE call differently. */
typedef struct ks_resblock_names {
    const char *norm1, *conv1, *norm2, *conv2, *shortcut;
} ks_resblock_names;

void ks_resblock_load(ks_resblock *r, ks_loader *l, const char *base,
                      const ks_resblock_names *names, int in, int out, float eps);

/* time: [n, 1, 1, out / parts] added to every pixel between the convolutions, or absent. y is x only where
 * in == out. */
void ks_resblock_run(const ks_resblock *r, ks_ops *ops, ks_act y, ks_act x, ks_act time);

/* Cross-attention's keys and values of one layer: made once a conditioning, looked up by row. */
typedef struct ks_kv {
    ks_act k, v;        /* [slots, tokens, 1, c], of a split network c / parts */
    const int32_t *row; /* device [n]: slot of each row */
    const int32_t *len; /* device [slots]: tokens of each slot */
} ks_kv;

/* One block: self-attention, cross-attention and a GEGLU feed-forward, each after a layer norm and
 * added. A norm is NULL where the weight after it has absorbed it. */
typedef struct ks_transformer_block {
    ks_weight *norm1, *qkv, *out1;
    ks_weight *norm2, *q, *kv, *out2; /* kv: context -> keys and values side by side */
    ks_weight *norm3, *ff1, *ff2;
} ks_transformer_block;

/* A spatial transformer: x + proj_out(blocks(proj_in(norm(x)))), pixels as tokens (Rombach et al.
 * 2022). */
typedef struct ks_transformer {
    int c, heads, depth; /* of the whole */
    ks_split split;      /* of its blocks */
    ks_weight *norm, *proj_in, *proj_out;
    ks_transformer_block *block; /* [depth] */
} ks_transformer;

/* proj_in and proj_out may be 1x1 convolutions or linears in the file. Owns block;
 * ks_transformer_free. */
void ks_transformer_load(ks_transformer *t, ks_loader *l, const char *base, int c, int heads,
                         int depth, int context);
void ks_transformer_free(ks_transformer *t);

/* kv: [depth]. y and x do not overlap. */
void ks_transformer_run(const ks_transformer *t, ks_ops *ops, ks_act y, ks_act x, const ks_kv *kv);

#endif
