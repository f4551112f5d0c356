/* The UNet: loading and one call. */
#include "model/unet.h"

#include <stdlib.h>
#include <string.h>

static const float norm_eps = 1e-5f;

static const ks_resblock_names res_names = {"in_layers.0", "in_layers.2", "out_layers.0",
                                            "out_layers.3", "skip_connection"};

/* --- loading --- */

/* "input_blocks.3." of a stage, behind the file's prefix. */
static ks_name stage_name(const ks_unet *u, const ks_unet_stage *s)
{
    static const char *const list[] = {"input_blocks.", "middle_block.", "output_blocks."};
    if (s->part == KS_UNET_MIDDLE)
        return ks_join(u->config->prefix, "%s", list[s->part]);
    return ks_join(u->config->prefix, "%s%d.", list[s->part], s->index);
}

static void load_resblock(ks_unet *u, ks_loader *l, ks_unet_layer *layer, int which,
                          const char *base)
{
    const ks_unet_stage *s = &layer->shape;
    ks_resblock_load(&layer->res[which], l, base, &res_names, which ? s->out : s->in, s->out,
                     norm_eps);
    layer->time[which] = u->time_width;
    u->time_width += s->out / u->split.parts;
}

/* The modules of a stage are numbered in the order they run. */
static void load_stage(ks_unet *u, ks_loader *l, ks_unet_layer *layer)
{
    const ks_unet_stage *s = &layer->shape;
    ks_name base = stage_name(u, s);
    int module = 0;
    if (s->resblocks > 0)
        load_resblock(u, l, layer, 0, ks_join(base.text, "%d.", module++).text);
    if (s->transformer) {
        layer->kv = u->kv_layers;
        u->kv_layers += s->depth;
        ks_transformer_load(&layer->transformer, l, ks_join(base.text, "%d.", module++).text,
                            s->out, ks_unet_heads(u->config, s->out), s->depth,
                            u->config->context_dim);
    }
    if (s->resblocks > 1)
        load_resblock(u, l, layer, 1, ks_join(base.text, "%d.", module++).text);
    if (s->conv_in)
        layer->conv = ks_load_conv(l, ks_join(base.text, "%d", module).text, s->in, s->out, 3);
    else if (s->down)
        layer->conv = ks_load_conv(l, ks_join(base.text, "%d.op", module).text, s->out, s->out, 3);
    else if (s->up)
        layer->conv = ks_load_upsample(l, ks_join(base.text, "%d.conv", module).text, s->out);
}

/* All residual blocks' projections of the time embedding as one linear. */
static void load_time_projections(ks_unet *u, ks_loader *l)
{
    ks_name *module = ks_loader_alloc(l, 2 * (size_t)u->stages, sizeof *module);
    int *out = ks_loader_alloc(l, 2 * (size_t)u->stages, sizeof *out), parts = 0;
    for (int i = 0; module && out && i < u->stages; i++) {
        const ks_unet_stage *s = &u->layer[i].shape;
        for (int r = 0; r < s->resblocks; r++, parts++) {
            int place = r ? 1 + s->transformer : 0;
            module[parts] = ks_join(stage_name(u, s).text, "%d.emb_layers.1", place);
            out[parts] = s->out;
        }
    }
    if (!l->failed)
        u->time_all = ks_load_fused(l, parts, module, u->embedding, out, true);
    free(module);
    free(out);
}

/* The list of cross-attention layers, for the conditioning's cache. */
static void list_kv_layers(ks_unet *u, ks_loader *l)
{
    u->kv = ks_loader_alloc(l, (size_t)u->kv_layers, sizeof *u->kv);
    for (int i = 0; u->kv && i < u->stages; i++) {
        const ks_transformer *t = &u->layer[i].transformer;
        for (int b = 0; b < t->depth; b++)
            u->kv[u->layer[i].kv + b] = (ks_kv_layer){t->block[b].kv, t->c / t->split.parts};
    }
}

static void load_embeddings(ks_unet *u, ks_loader *l)
{
    const ks_unet_config *c = u->config;
    u->time1 = ks_load_linear(l, ks_join(c->prefix, "time_embed.0").text, c->model_channels,
                              u->embedding, true);
    u->time2 = ks_load_linear(l, ks_join(c->prefix, "time_embed.2").text, u->embedding,
                              u->embedding, true);
    load_time_projections(u, l);
    if (c->adm_channels > 0) {
        u->label1 = ks_load_linear(l, ks_join(c->prefix, "label_emb.0.0").text, c->adm_channels,
                                   u->embedding, true);
        u->label2 = ks_load_linear(l, ks_join(c->prefix, "label_emb.0.2").text, u->embedding,
                                   u->embedding, true);
    }
}

int ks_unet_load(ks_unet *u, ks_loader *l, const ks_unet_config *config)
{
    ks_unet_stage stage[KS_UNET_STAGES];
    *u = (ks_unet){.config = config, .split = l->split, .embedding = 4 * config->model_channels};
    u->stages = ks_unet_stages(config, stage);
    u->layer = ks_loader_alloc(l, (size_t)u->stages, sizeof *u->layer);
    if (!u->layer)
        return -1;
    for (int i = 0; i < u->stages; i++) {
        u->layer[i].shape = stage[i];
        load_stage(u, l, &u->layer[i]);
    }
    u->out_norm = ks_load_norm(l, ks_join(config->prefix, "out.0").text, stage[u->stages - 1].out);
    u->out_conv = ks_load_conv(l, ks_join(config->prefix, "out.2").text, stage[u->stages - 1].out,
                               config->out_channels, 3);
    if (!l->failed) {
        load_embeddings(u, l);
        list_kv_layers(u, l);
    }
    return l->failed ? -1 : 0;
}

void ks_unet_free(ks_unet *u)
{
    for (int i = 0; u->layer && i < u->stages; i++)
        ks_transformer_free(&u->layer[i].transformer);
    free(u->layer);
    free(u->kv);
    *u = (ks_unet){0};
}

/* --- one call --- */

/* A call under way. An output stage reads what the stage before it made and a skip connection, side
 * by side. With a backend that has slices both are written where they are read. Else the stages hand
 * on their output in one of the two buffers, the skip connections have memory of their own, and an
 * output stage joins the two. Within a stage the buffers hold what it has in between; what an
 * operation reads is never what it writes. */
typedef struct running {
    const ks_unet *u;
    ks_ops *ops;
    const ks_unet_call *call;
    ks_act time; /* [n, 1, 1, time_width] */
    void *buffer[2];
    int turn;
    ks_act skip[KS_UNET_STAGES];   /* of the input stages */
    ks_act joined[KS_UNET_STAGES]; /* of the output stages, with slices */
} running;

/* An activation's sides at a level; no data. */
static ks_act at_level(const running *r, int level, int c)
{
    const ks_unet_call *call = r->call;
    return ks_act_on(NULL, call->n, ks_unet_side(call->height, level),
                     ks_unet_side(call->width, level), c);
}

static ks_act new_at_level(const running *r, int level, int c)
{
    const ks_act a = at_level(r, level, c);
    return r->ops->act(r->ops, a.n, a.h, a.w, c);
}

/* The buffer that was not handed out last. */
static ks_act other(running *r, int level, int c)
{
    ks_act a = at_level(r, level, c);
    r->turn = !r->turn;
    a.data = r->buffer[r->turn];
    return a;
}

/* The level that a stage's output has. */
static int level_after(const ks_unet_stage *s)
{
    return s->level + (s->down ? 1 : 0) - (s->up ? 1 : 0);
}

/* Room for twice the widest activation that is handed on. */
static void make_buffers(running *r)
{
    int widest = 0;
    for (int i = 0; i < r->u->stages; i++) {
        const ks_unet_stage *s = &r->u->layer[i].shape;
        const ks_act a = at_level(r, r->ops->slices ? s->level : level_after(s), s->out);
        if (a.h * a.w * a.c > widest)
            widest = a.h * a.w * a.c;
    }
    for (int i = 0; i < 2; i++)
        r->buffer[i] = r->ops->act(r->ops, r->call->n, 1, 1, widest).data;
}

/* What all output stages read. */
static void make_joined(running *r)
{
    for (int i = 0; r->ops->slices && i < r->u->stages; i++) {
        const ks_unet_stage *s = &r->u->layer[i].shape;
        if (s->part == KS_UNET_OUTPUT)
            r->joined[i] = new_at_level(r, s->level, s->in);
    }
}

/* The stage that reads stage i's output as its skip connection: the first's is the last's, and so
 * on. */
static int skips_to(const running *r, int i)
{
    return r->u->stages - 1 - i;
}

/* Where stage i's output belongs. */
static ks_act output_of(running *r, int i)
{
    const ks_unet_stage *s = &r->u->layer[i].shape;
    const size_t element = ks_element_size(r->ops);
    if (s->part == KS_UNET_INPUT) {
        const ks_act joined = r->joined[skips_to(r, i)];
        return r->skip[i] = r->ops->slices
                                ? ks_act_slice(joined, joined.c - s->out, s->out, element)
                                : new_at_level(r, level_after(s), s->out);
    }
    if (r->ops->slices && i + 1 < r->u->stages)
        return ks_act_slice(r->joined[i + 1], 0, s->out, element);
    return other(r, level_after(s), s->out);
}

/* Sinusoids of the timestep through two linears, plus y's embedding; then every residual block's
 * projection. */
static void embed_time(running *r)
{
    const ks_unet *u = r->u;
    ks_ops *ops = r->ops;
    int n = r->call->n;
    r->time = ops->act(ops, n, 1, 1, u->time_width);
    size_t mark = ops->mark(ops);
    ks_act sinusoid = ops->act(ops, n, 1, 1, u->config->model_channels);
    ks_act inner = ops->act(ops, n, 1, 1, u->embedding);
    ks_act embedded = ops->act(ops, n, 1, 1, u->embedding);
    ks_act label = {0};
    if (u->label1) {
        label = ops->act(ops, n, 1, 1, u->embedding);
        ops->from_latents(ops, label, r->call->label, r->call->one);
    }
    ops->timestep_embedding(ops, sinusoid, r->call->timestep);
    ops->linear(ops, inner, sinusoid, u->time1, KS_ACT_SILU, (ks_act){0});
    ops->linear(ops, embedded, inner, u->time2, KS_ACT_NONE, label);
    ops->activate(ops, embedded, embedded, KS_ACT_SILU);
    ops->linear(ops, r->time, embedded, u->time_all, KS_ACT_NONE, (ks_act){0});
    ops->unwind(ops, mark);
}

static void run_resblock(running *r, const ks_unet_layer *layer, int which, ks_act y, ks_act x)
{
    const ks_resblock *res = &layer->res[which];
    ks_act time = ks_act_slice(r->time, layer->time[which], res->out / res->split.parts, ks_element_size(r->ops));
    ks_resblock_run(res, r->ops, y, x, time);
}

static void run_transformer(running *r, const ks_unet_layer *layer, ks_act y, ks_act x)
{
    ks_transformer_run(&layer->transformer, r->ops, y, x, r->call->kv + layer->kv);
}

/* What stage i makes next: its output with its last operation. */
static ks_act next(running *r, int i, bool last)
{
    const ks_unet_stage *s = &r->u->layer[i].shape;
    return last ? output_of(r, i) : other(r, s->level, s->out);
}

static ks_act run_input(running *r, int i, ks_act x)
{
    const ks_unet_layer *layer = &r->u->layer[i];
    const ks_unet_stage *s = &layer->shape;
    const ks_conv how = {.stride = s->down ? 2 : 1, .pad = 1};
    ks_act y = output_of(r, i);
    if (s->resblocks == 0) {
        r->ops->conv(r->ops, y, x, layer->conv, &how);
    } else if (s->transformer) {
        ks_act between = other(r, s->level, s->out);
        run_resblock(r, layer, 0, between, x);
        run_transformer(r, layer, y, between);
    } else {
        run_resblock(r, layer, 0, y, x);
    }
    return y;
}

static ks_act run_middle(running *r, int i, ks_act x)
{
    const ks_unet_layer *layer = &r->u->layer[i];
    ks_act y = next(r, i, !layer->shape.transformer);
    run_resblock(r, layer, 0, y, x);
    if (!layer->shape.transformer)
        return y;
    ks_act attended = next(r, i, false);
    run_transformer(r, layer, attended, y);
    y = next(r, i, true);
    run_resblock(r, layer, 1, y, attended);
    return y;
}

/* To the size of the level above: twice, or one less where that was odd. */
static ks_act run_upsample(running *r, int i, ks_act x)
{
    const ks_conv how = {.stride = 1, .pad = 1, .upsample = true};
    ks_act y = next(r, i, true);
    r->ops->conv(r->ops, y, x, r->u->layer[i].conv, &how);
    return y;
}

/* What output stage i reads, x being the output of the one before it. */
static ks_act joined_for(running *r, int i, ks_act x)
{
    if (r->ops->slices)
        return r->joined[i];
    ks_act joined = r->ops->act(r->ops, x.n, x.h, x.w, r->u->layer[i].shape.in);
    r->ops->concat(r->ops, joined, x, r->skip[skips_to(r, i)]);
    return joined;
}

static ks_act run_output(running *r, int i, ks_act x)
{
    const ks_unet_layer *layer = &r->u->layer[i];
    const ks_unet_stage *s = &layer->shape;
    size_t mark = r->ops->mark(r->ops);
    ks_act joined = joined_for(r, i, x);
    ks_act y = next(r, i, !s->transformer && !s->up);
    run_resblock(r, layer, 0, y, joined);
    r->ops->unwind(r->ops, mark);
    if (s->transformer) {
        ks_act attended = next(r, i, !s->up);
        run_transformer(r, layer, attended, y);
        y = attended;
    }
    return s->up ? run_upsample(r, i, y) : y;
}

void ks_unet_run(const ks_unet *u, ks_ops *ops, const ks_unet_call *call)
{
    static ks_act (*const run[])(running *, int, ks_act) = {run_input, run_middle, run_output};
    const ks_unet_config *c = u->config;
    const ks_conv how = {.stride = 1, .pad = 1};
    running r = {.u = u, .ops = ops, .call = call};
    size_t mark = ops->mark(ops);
    embed_time(&r);
    make_buffers(&r);
    make_joined(&r);
    ks_act x = ops->act(ops, call->n, call->height, call->width, c->in_channels);
    ks_act out = ops->act(ops, call->n, call->height, call->width, c->out_channels);
    ops->from_latents(ops, x, call->x, call->scale);
    for (int i = 0; i < u->stages; i++)
        x = run[u->layer[i].shape.part](&r, i, x);
    ops->group_norm(ops, x, x, u->out_norm, KS_GROUPS, norm_eps, true);
    ops->conv(ops, out, x, u->out_conv, &how);
    ops->to_latents(ops, call->out, out);
    ops->unwind(ops, mark);
}

void ks_unet_label(const ks_unet *u, ks_ops *ops, float *out, const float *y)
{
    size_t mark = ops->mark(ops);
    ks_act vector = ops->act(ops, 1, 1, 1, u->config->adm_channels);
    ks_act inner = ops->act(ops, 1, 1, 1, u->embedding);
    ks_act label = ops->act(ops, 1, 1, 1, u->embedding);
    ops->from_floats(ops, vector, y);
    ops->linear(ops, inner, vector, u->label1, KS_ACT_SILU, (ks_act){0});
    ops->linear(ops, label, inner, u->label2, KS_ACT_NONE, (ks_act){0});
    ops->to_floats(ops, out, label);
    ops->unwind(ops, mark);
}
