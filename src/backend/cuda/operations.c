/* The kernels behind the operations of ops.h, and the lanes' arithmetic. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "backend/cuda/combine.h"
#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/lanes.h"
#include "kernels/norm.h"
#include "kernels/window.h"

/* --- norms and attention --- */

static void group_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, int groups, float eps,
                       bool silu)
{
    ks_cuda *c = ks_cuda_of(ops);
    bool fits =
        ks_cuda_same_shape(x, y) && groups > 0 && x.c % groups == 0 && w->out == x.c && w->bias;
    if (!ks_cuda_runs(c, fits, "group norm", y, x))
        return;
    size_t mark = ops->mark(ops);
    size_t bytes = ks_cuda_group_norm_workspace(x.n, groups, ks_cuda_pixels(x), x.c);
    void *workspace = bytes ? ks_cuda_take(c, bytes) : NULL;
    if (!c->failed)
        KS_CUDA_CALL(c, ks_cuda_group_norm(c->stream, c->type, y, x, w->data, w->bias, groups, eps,
                                           silu, workspace, bytes));
    ops->unwind(ops, mark);
}

static void layer_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, float eps)
{
    ks_cuda *c = ks_cuda_of(ops);
    bool fits = ks_cuda_same_shape(x, y) && w->out == x.c && w->bias;
    if (ks_cuda_runs(c, fits, "layer norm", y, x))
        KS_CUDA_CALL(c, ks_cuda_layer_norm(c->stream, c->type, y, x, w->data, w->bias, eps));
}

static void attention(ks_ops *ops, ks_act y, ks_act q, ks_act k, ks_act v, const ks_attention *how)
{
    ks_cuda *c = ks_cuda_of(ops);
    bool fits = y.n == q.n && ks_cuda_pixels(y) == ks_cuda_pixels(q) && ks_cuda_same_shape(k, v) &&
                y.c == q.c && k.c == q.c && how->heads > 0 && q.c % how->heads == 0 &&
                (how->kv_row || k.n >= q.n);
    if (!ks_cuda_runs(c, fits, "attention", y, q))
        return;
    size_t mark = ops->mark(ops);
    size_t bytes = ks_cuda_attention_workspace(c->type, q.n, (int)ks_cuda_pixels(q),
                                               (int)ks_cuda_pixels(k), how->heads,
                                               q.c / how->heads);
    void *workspace = bytes ? ks_cuda_take(c, bytes) : NULL;
    if (!c->failed)
        KS_CUDA_CALL(c, ks_cuda_attention(c->stream, c->type, y, q, k, v, how->heads, how->causal,
                                          how->kv_row, how->kv_len, workspace, bytes));
    ops->unwind(ops, mark);
}

/* --- single elements --- */

static void concat(ks_ops *ops, ks_act y, ks_act a, ks_act b)
{
    ks_cuda *c = ks_cuda_of(ops);
    bool fits = a.n == b.n && a.h == b.h && a.w == b.w && y.n == a.n && y.h == a.h && y.w == a.w &&
                y.c == a.c + b.c;
    if (ks_cuda_runs(c, fits, "concat", y, a))
        KS_CUDA_CALL(c, ks_cuda_concat(c->stream, c->type, y, a, b));
}

static void add(ks_ops *ops, ks_act y, ks_act a, ks_act b)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (ks_cuda_runs(c, ks_cuda_same_shape(y, a) && ks_cuda_same_shape(y, b), "add", y, a))
        KS_CUDA_CALL(c, ks_cuda_add(c->stream, c->type, y, a, b));
}

static void activate(ks_ops *ops, ks_act y, ks_act x, ks_activation activation)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act absent = {0};
    if (ks_cuda_runs(c, ks_cuda_same_shape(y, x), "activate", y, x))
        KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, y, x, NULL, absent, activation, absent));
}

static void timestep_embedding(ks_ops *ops, ks_act y, const float *t)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (ks_cuda_runs(c, y.c % 2 == 0 && ks_cuda_pixels(y) == 1, "timestep embedding", y, y))
        KS_CUDA_CALL(c, ks_cuda_timestep_embedding(c->stream, c->type, y, t));
}

static void embedding(ks_ops *ops, ks_act y, const int32_t *ids, const ks_weight *tokens,
                      const ks_weight *positions)
{
    ks_cuda *c = ks_cuda_of(ops);
    bool fits = tokens->in == y.c && positions->in == y.c && positions->out >= ks_cuda_pixels(y);
    if (ks_cuda_runs(c, fits, "embedding", y, y))
        KS_CUDA_CALL(c, ks_cuda_embedding(c->stream, c->type, y, ids, tokens->data, tokens->out,
                                          positions->data));
}

/* --- between latents and activations --- */

static void from_latents(ks_ops *ops, ks_act y, const float *const *x, const float *scale)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (ks_cuda_runs(c, true, "from latents", y, y))
        KS_CUDA_CALL(c, ks_cuda_from_latents(c->stream, c->type, y, x, scale));
}

static void to_latents(ks_ops *ops, float *const *out, ks_act x)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (ks_cuda_runs(c, true, "to latents", x, x))
        KS_CUDA_CALL(c, ks_cuda_to_latents(c->stream, c->type, out, x));
}

static void from_floats(ks_ops *ops, ks_act y, const float *x)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (ks_cuda_runs(c, true, "from floats", y, y))
        KS_CUDA_CALL(c, ks_cuda_from_floats(c->stream, c->type, y, x));
}

static void to_floats(ks_ops *ops, float *out, ks_act x)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (ks_cuda_runs(c, true, "to floats", x, x))
        KS_CUDA_CALL(c, ks_cuda_to_floats(c->stream, c->type, out, x));
}

static void to_rgb(ks_ops *ops, uint8_t *rgb, ks_act x)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (ks_cuda_runs(c, x.c == 3, "to rgb", x, x))
        KS_CUDA_CALL(c, ks_cuda_to_rgb(c->stream, c->type, rgb, x));
}

/* --- the lanes' arithmetic --- */

/* What c->small holds. Work is in order, so that the next use of it may overwrite the last. */
enum { COMBINATIONS = KS_CUDA_COMBINE };
typedef struct small {
    double norm, parts[KS_CUDA_PARTS];
    int32_t finite, good[KS_CUDA_PARTS];
    ks_lincomb_op op[COMBINATIONS];
    ks_cuda_chain chain[COMBINATIONS];
} small;

size_t ks_cuda_small_bytes(void)
{
    return sizeof(small);
}

static small *small_of(ks_cuda *c)
{
    return (small *)(void *)c->small;
}

static void lincomb(ks_ops *ops, const ks_lincomb_op *op, int count)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    small *s = small_of(c);
    ks_lincomb_op sorted[COMBINATIONS];
    ks_cuda_chain chain[COMBINATIONS];
    if (!ks_cuda_runs(c, true, "lincomb", none, none))
        return;
    for (int taken = 0, some; taken < count && !c->failed; taken += some) {
        int room = count - taken < COMBINATIONS ? count - taken : COMBINATIONS, chains;
        int64_t longest;
        some = ks_cuda_chains(op + taken, room, sorted, chain, &chains, &longest);
        ks_cuda_upload(ops, s->op, sorted, (size_t)some * sizeof *sorted);
        ks_cuda_upload(ops, s->chain, chain, (size_t)chains * sizeof *chain);
        if (!c->failed)
            KS_CUDA_CALL(c, ks_cuda_lincomb(c->stream, s->op, s->chain, chains, longest));
    }
}

static void crop(ks_ops *ops, float *out, const float *x, int channels, int height, int width,
                 ks_window at)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    if (ks_cuda_runs(c, true, "crop", none, none))
        KS_CUDA_CALL(c, ks_cuda_crop(c->stream, out, x, channels, height, width, at));
}

static void blend(ks_ops *ops, const ks_blend_op *op)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    if (!ks_cuda_runs(c, true, "blend", none, none))
        return;
    ks_blend_op own = *op;
    size_t mark = ops->mark(ops), bytes = (size_t)op->parts * sizeof *op->part;
    ks_blend_part *part = ks_cuda_take(c, bytes);
    own.part = part;
    ks_cuda_upload(ops, part, op->part, bytes);
    if (!c->failed)
        KS_CUDA_CALL(c, ks_cuda_blend(c->stream, &own));
    ops->unwind(ops, mark);
}

static void inpaint(ks_ops *ops, const ks_inpaint_op *op)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    if (ks_cuda_runs(c, true, "inpaint", none, none))
        KS_CUDA_CALL(c, ks_cuda_inpaint(c->stream, op));
}

static void error_norm(ks_ops *ops, double *out, const float *a, const float *b, const float *x,
                       int64_t n, double atol, double rtol)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    small *s = small_of(c);
    if (ks_cuda_runs(c, true, "error norm", none, none) &&
        KS_CUDA_CALL(c, ks_cuda_error_norm(c->stream, &s->norm, s->parts, a, b, x, n, atol, rtol)))
        ks_cuda_download(ops, out, &s->norm, sizeof *out);
}

static void all_finite(ks_ops *ops, int *out, const float *a, int64_t n)
{
    ks_cuda *c = ks_cuda_of(ops);
    const ks_act none = {0};
    small *s = small_of(c);
    _Static_assert(sizeof *out == sizeof s->finite, "the flag goes to the host as it is");
    if (ks_cuda_runs(c, true, "all finite", none, none) &&
        KS_CUDA_CALL(c, ks_cuda_all_finite(c->stream, &s->finite, s->good, a, n)))
        ks_cuda_download(ops, out, &s->finite, sizeof *out);
}

void ks_cuda_operations(ks_ops *ops)
{
    ops->group_norm = group_norm;
    ops->layer_norm = layer_norm;
    ops->attention = attention;
    ops->concat = concat;
    ops->add = add;
    ops->activate = activate;
    ops->timestep_embedding = timestep_embedding;
    ops->embedding = embedding;
    ops->from_latents = from_latents;
    ops->to_latents = to_latents;
    ops->from_floats = from_floats;
    ops->to_floats = to_floats;
    ops->to_rgb = to_rgb;
    ops->lincomb = lincomb;
    ops->crop = crop;
    ops->blend = blend;
    ops->inpaint = inpaint;
    ops->error_norm = error_norm;
    ops->all_finite = all_finite;
}
