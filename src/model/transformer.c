/* Spatial transformers: attention over pixels and to the conditioning (Vaswani et al. 2017; GEGLU:
 * Shazeer 2020). */
#include <stdlib.h>

#include "model/blocks.h"

static const float group_eps = 1e-6f, layer_eps = 1e-5f;

/* Hands a norm to the weight that comes after it, where the backend has a form for that. */
static void absorb(ks_loader *l, ks_weight **norm, ks_weight *w)
{
    if (!l->failed && l->ops->absorb_norm && l->ops->absorb_norm(l->ops, w, *norm, layer_eps))
        *norm = NULL;
}

static void load_block(ks_transformer_block *b, ks_loader *l, const char *base, int c, int context)
{
    const ks_name self[3] = {ks_join(base, "attn1.to_q"), ks_join(base, "attn1.to_k"),
                             ks_join(base, "attn1.to_v")};
    const ks_name cross[2] = {ks_join(base, "attn2.to_k"), ks_join(base, "attn2.to_v")};
    const int out[3] = {c, c, c};
    b->norm1 = ks_load_norm(l, ks_join(base, "norm1").text, c);
    b->qkv = ks_load_fused(l, 3, self, c, out, false);
    b->out1 = ks_load_linear(l, ks_join(base, "attn1.to_out.0").text, c, c, true);
    b->norm2 = ks_load_norm(l, ks_join(base, "norm2").text, c);
    b->q = ks_load_linear(l, ks_join(base, "attn2.to_q").text, c, c, false);
    b->kv = ks_load_fused(l, 2, cross, context, out, false);
    b->out2 = ks_load_linear(l, ks_join(base, "attn2.to_out.0").text, c, c, true);
    b->norm3 = ks_load_norm(l, ks_join(base, "norm3").text, c);
    b->ff1 = ks_load_geglu(l, ks_join(base, "ff.net.0.proj").text, c, 4 * c);
    b->ff2 = ks_load_linear(l, ks_join(base, "ff.net.2").text, 4 * c, c, true);
    absorb(l, &b->norm1, b->qkv);
    absorb(l, &b->norm2, b->q);
    absorb(l, &b->norm3, b->ff1);
}

void ks_transformer_load(ks_transformer *t, ks_loader *l, const char *base, int c, int heads,
                         int depth, int context)
{
    *t = (ks_transformer){.c = c, .heads = heads, .depth = depth};
    t->norm = ks_load_norm(l, ks_join(base, "norm").text, c);
    t->proj_in = ks_load_linear(l, ks_join(base, "proj_in").text, c, c, true);
    t->proj_out = ks_load_linear(l, ks_join(base, "proj_out").text, c, c, true);
    t->block = ks_loader_alloc(l, (size_t)depth, sizeof *t->block);
    for (int i = 0; t->block && i < depth; i++)
        load_block(&t->block[i], l, ks_join(base, "transformer_blocks.%d.", i).text, c, context);
}

void ks_transformer_free(ks_transformer *t)
{
    free(t->block);
    t->block = NULL;
}

/* layer_norm(x) in scratch, or x where the weight that reads it normalises. */
static ks_act normalised(ks_ops *ops, ks_act scratch, ks_act x, const ks_weight *norm)
{
    if (!norm)
        return x;
    ops->layer_norm(ops, scratch, x, norm, layer_eps);
    return scratch;
}

/* x += attention of x to itself. normed: scratch of x's shape, here and below. */
static void self_attention(const ks_transformer_block *b, ks_ops *ops, ks_act x, ks_act normed,
                           int heads)
{
    size_t mark = ops->mark(ops), element = ks_element_size(ops);
    ks_act qkv = ops->act(ops, x.n, x.h, x.w, 3 * x.c);
    const ks_attention how = {.heads = heads};
    ops->linear(ops, qkv, normalised(ops, normed, x, b->norm1), b->qkv, KS_ACT_NONE, (ks_act){0});
    ops->attention(ops, normed, ks_act_slice(qkv, 0, x.c, element),
                   ks_act_slice(qkv, x.c, x.c, element), ks_act_slice(qkv, 2 * x.c, x.c, element),
                   &how);
    ops->linear(ops, x, normed, b->out1, KS_ACT_NONE, x);
    ops->unwind(ops, mark);
}

/* x += attention of x to its conditioning. */
static void cross_attention(const ks_transformer_block *b, ks_ops *ops, ks_act x, ks_act normed,
                            int heads, const ks_kv *kv)
{
    size_t mark = ops->mark(ops);
    ks_act q = ops->act(ops, x.n, x.h, x.w, x.c);
    const ks_attention how = {.heads = heads, .kv_row = kv->row, .kv_len = kv->len};
    ops->linear(ops, q, normalised(ops, normed, x, b->norm2), b->q, KS_ACT_NONE, (ks_act){0});
    ops->attention(ops, normed, q, kv->k, kv->v, &how);
    ops->linear(ops, x, normed, b->out2, KS_ACT_NONE, x);
    ops->unwind(ops, mark);
}

static void feed_forward(const ks_transformer_block *b, ks_ops *ops, ks_act x, ks_act normed)
{
    size_t mark = ops->mark(ops);
    ks_act hidden = ops->act(ops, x.n, x.h, x.w, 4 * x.c);
    ops->geglu(ops, hidden, normalised(ops, normed, x, b->norm3), b->ff1);
    ops->linear(ops, x, hidden, b->ff2, KS_ACT_NONE, x);
    ops->unwind(ops, mark);
}

void ks_transformer_run(const ks_transformer *t, ks_ops *ops, ks_act y, ks_act x, const ks_kv *kv)
{
    size_t mark = ops->mark(ops);
    ks_act tokens = ops->act(ops, x.n, x.h, x.w, t->c);
    ks_act normed = ops->act(ops, x.n, x.h, x.w, t->c);
    ops->group_norm(ops, normed, x, t->norm, KS_GROUPS, group_eps, false);
    ops->linear(ops, tokens, normed, t->proj_in, KS_ACT_NONE, (ks_act){0});
    for (int i = 0; i < t->depth; i++) {
        self_attention(&t->block[i], ops, tokens, normed, t->heads);
        cross_attention(&t->block[i], ops, tokens, normed, t->heads, &kv[i]);
        feed_forward(&t->block[i], ops, tokens, normed);
    }
    ops->linear(ops, y, tokens, t->proj_out, KS_ACT_NONE, x);
    ops->unwind(ops, mark);
}
