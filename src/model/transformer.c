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
    b->out1 = ks_load_linear_share(l, KS_SHARE_INPUTS, ks_join(base, "attn1.to_out.0").text, c, c, true);
    b->norm2 = ks_load_norm(l, ks_join(base, "norm2").text, c);
    b->q = ks_load_linear_share(l, KS_SHARE_OUTPUTS, ks_join(base, "attn2.to_q").text, c, c, false);
    b->kv = ks_load_fused(l, 2, cross, context, out, false);
    b->out2 = ks_load_linear_share(l, KS_SHARE_INPUTS, ks_join(base, "attn2.to_out.0").text, c, c, true);
    b->norm3 = ks_load_norm(l, ks_join(base, "norm3").text, c);
    b->ff1 = ks_load_geglu(l, ks_join(base, "ff.net.0.proj").text, c, 4 * c);
    b->ff2 = ks_load_linear_share(l, KS_SHARE_INPUTS, ks_join(base, "ff.net.2").text, 4 * c, c, true);
    absorb(l, &b->norm1, b->qkv);
    absorb(l, &b->norm2, b->q);
    absorb(l, &b->norm3, b->ff1);
}

void ks_transformer_load(ks_transformer *t, ks_loader *l, const char *base, int c, int heads,
                         int depth, int context)
{
    *t = (ks_transformer){.c = c, .heads = heads, .depth = depth, .split = l->split};
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

/* What the three branches of a block work on. inner: channels between the two layers of a branch at
 * this part, those of its heads. */
typedef struct branch {
    ks_ops *ops;
    ks_split split;
    int heads, inner;
    ks_act x, normed, mixed; /* normed: scratch of x's shape; mixed: attention's output */
} branch;

/* x += w inside, the branch's last layer, summed over the parts. */
static void add_to_residual(const branch *r, ks_act inside, const ks_weight *w)
{
    r->ops->linear(r->ops, r->x, inside, w, KS_ACT_NONE, ks_split_residual(r->split, r->x));
    ks_split_sum(r->split, r->ops, r->x);
}

/* x += attention of x to itself. */
static void self_attention(const ks_transformer_block *b, const branch *r)
{
    ks_ops *ops = r->ops;
    size_t mark = ops->mark(ops), element = ks_element_size(ops);
    ks_act qkv = ops->act(ops, r->x.n, r->x.h, r->x.w, 3 * r->inner);
    const ks_attention how = {.heads = r->heads};
    ops->linear(ops, qkv, normalised(ops, r->normed, r->x, b->norm1), b->qkv, KS_ACT_NONE, (ks_act){0});
    ops->attention(ops, r->mixed, ks_act_slice(qkv, 0, r->inner, element),
                   ks_act_slice(qkv, r->inner, r->inner, element),
                   ks_act_slice(qkv, 2 * r->inner, r->inner, element), &how);
    add_to_residual(r, r->mixed, b->out1);
    ops->unwind(ops, mark);
}

/* x += attention of x to its conditioning. */
static void cross_attention(const ks_transformer_block *b, const branch *r, const ks_kv *kv)
{
    ks_ops *ops = r->ops;
    size_t mark = ops->mark(ops);
    ks_act q = ops->act(ops, r->x.n, r->x.h, r->x.w, r->inner);
    const ks_attention how = {.heads = r->heads, .kv_row = kv->row, .kv_len = kv->len};
    ops->linear(ops, q, normalised(ops, r->normed, r->x, b->norm2), b->q, KS_ACT_NONE, (ks_act){0});
    ops->attention(ops, r->mixed, q, kv->k, kv->v, &how);
    add_to_residual(r, r->mixed, b->out2);
    ops->unwind(ops, mark);
}

static void feed_forward(const ks_transformer_block *b, const branch *r)
{
    ks_ops *ops = r->ops;
    size_t mark = ops->mark(ops);
    ks_act hidden = ops->act(ops, r->x.n, r->x.h, r->x.w, 4 * r->inner);
    ops->geglu(ops, hidden, normalised(ops, r->normed, r->x, b->norm3), b->ff1);
    add_to_residual(r, hidden, b->ff2);
    ops->unwind(ops, mark);
}

void ks_transformer_run(const ks_transformer *t, ks_ops *ops, ks_act y, ks_act x, const ks_kv *kv)
{
    size_t mark = ops->mark(ops);
    branch r = {.ops = ops, .split = t->split, .heads = t->heads / t->split.parts, .inner = t->c / t->split.parts};
    r.x = ops->act(ops, x.n, x.h, x.w, t->c);
    r.normed = ops->act(ops, x.n, x.h, x.w, t->c);
    r.mixed = ks_act_on(r.normed.data, x.n, x.h, x.w, r.inner);
    ops->group_norm(ops, r.normed, x, t->norm, KS_GROUPS, group_eps, false);
    ops->linear(ops, r.x, r.normed, t->proj_in, KS_ACT_NONE, (ks_act){0});
    for (int i = 0; i < t->depth; i++) {
        self_attention(&t->block[i], &r);
        cross_attention(&t->block[i], &r, &kv[i]);
        feed_forward(&t->block[i], &r);
    }
    ops->linear(ops, y, r.x, t->proj_out, KS_ACT_NONE, x);
    ops->unwind(ops, mark);
}
