/* One network on several ranks (Shoeybi et al. 2019, "Megatron-LM", for the transformers): each holds a part of the layers
 * in pairs, the first one's outputs and the same share of the second one's inputs, so that a residual branch needs one sum
 * over the ranks, at its end.
 *
 * Split are attention (by heads), the feed-forward (by hidden channels, values with their gates) and residual blocks (by the
 * channels between the two convolutions, with the norm between them, which is of whole groups, and the time embedding's
 * projections). Whole at every rank stays what lies between these pairs: the residual stream itself, the norms in front of the
 * branches, the changes of size, the transformers' outer projections, the embeddings, first and last convolution. */
#ifndef KS_MODEL_SPLIT_H
#define KS_MODEL_SPLIT_H

#include "backend/ops.h"
#include "model/config.h"

/* Part `part`, counted from 0, of `parts`. */
typedef struct ks_split {
    int part, parts;
} ks_split;

/* The whole of a network. */
static const ks_split ks_unsplit = {0, 1};

/* Which of a weight's sides is shared out among the parts. Of inputs: the parts' outputs are to be added, so the bias is the
 * first part's alone. */
typedef enum ks_share { KS_SHARE_NONE, KS_SHARE_OUTPUTS, KS_SHARE_INPUTS } ks_share;

/* What the network adds to a branch whose parts are summed: x at the first part, nothing at the others. */
static inline ks_act ks_split_residual(ks_split s, ks_act x)
{
    return s.part == 0 ? x : (ks_act){0};
}

/* y becomes the sum of all parts' y. */
static inline void ks_split_sum(ks_split s, ks_ops *ops, ks_act y)
{
    if (s.parts > 1)
        ops->all_reduce(ops, y);
}

/* A part's share of the first axis of a view: rows that lie together, in the same memory. */
ks_view ks_split_rows(ks_split s, const ks_view *v);

/* A part's share of the second axis of [out, in, ...], packed into memory of as many bytes as the share has. */
ks_view ks_split_columns(ks_split s, const ks_view *v, void *memory);

/* Whether a UNet can be split into so many parts: its attention heads and its norms' groups must be divisible. Else one
 * sentence that says which numbers would do. */
int ks_unet_split_fits(const ks_unet_config *c, int parts, ks_error *err);

/* The fraction of the UNet's parameters that the first part holds; the others hold a little less, for some biases are its
 * alone. */
double ks_unet_weight_share(const ks_unet_config *c, int parts);

#endif
