/* CLIP's text transformer. */
#include "model/text.h"

#include <stdlib.h>

static const float norm_eps = 1e-5f;

static void load_layer(ks_text_layer *layer, ks_loader *l, const char *base,
                       const ks_text_config *c)
{
    const ks_name qkv[3] = {ks_join(base, "self_attn.q_proj"), ks_join(base, "self_attn.k_proj"),
                            ks_join(base, "self_attn.v_proj")};
    const int out[3] = {c->width, c->width, c->width};
    layer->norm1 = ks_load_norm(l, ks_join(base, "layer_norm1").text, c->width);
    layer->qkv = ks_load_fused(l, 3, qkv, c->width, out, true);
    layer->out =
        ks_load_linear(l, ks_join(base, "self_attn.out_proj").text, c->width, c->width, true);
    layer->norm2 = ks_load_norm(l, ks_join(base, "layer_norm2").text, c->width);
    layer->fc1 = ks_load_linear(l, ks_join(base, "mlp.fc1").text, c->width, c->hidden, true);
    layer->fc2 = ks_load_linear(l, ks_join(base, "mlp.fc2").text, c->hidden, c->width, true);
}

int ks_text_load(ks_text *t, ks_loader *l, const ks_text_config *config)
{
    const char *base = config->prefix;
    *t = (ks_text){.config = config};
    t->tokens = ks_load_table(l, ks_join(base, "embeddings.token_embedding.weight").text,
                              config->vocab, config->width);
    t->positions = ks_load_table(l, ks_join(base, "embeddings.position_embedding.weight").text,
                                 config->tokens, config->width);
    t->final_norm = ks_load_norm(l, ks_join(base, "final_layer_norm").text, config->width);
    t->layer = ks_loader_alloc(l, (size_t)config->layers, sizeof *t->layer);
    for (int i = 0; t->layer && i < config->layers; i++)
        load_layer(&t->layer[i], l, ks_join(base, "encoder.layers.%d.", i).text, config);
    return l->failed ? -1 : 0;
}

void ks_text_free(ks_text *t)
{
    free(t->layer);
    *t = (ks_text){0};
}

/* x += attention, then x += two-layer perceptron, each after a layer norm. */
static void run_layer(const ks_text_layer *layer, ks_ops *ops, const ks_text_config *c, ks_act x)
{
    size_t mark = ops->mark(ops), element = ks_element_size(ops);
    ks_act normed = ops->act(ops, x.n, x.h, 1, c->width);
    ks_act qkv = ops->act(ops, x.n, x.h, 1, 3 * c->width);
    ks_act hidden = ops->act(ops, x.n, x.h, 1, c->hidden);
    const ks_attention how = {.heads = c->heads, .causal = true};
    ops->layer_norm(ops, normed, x, layer->norm1, norm_eps);
    ops->linear(ops, qkv, normed, layer->qkv, KS_ACT_NONE, (ks_act){0});
    ops->attention(ops, normed, ks_act_slice(qkv, 0, c->width, element),
                   ks_act_slice(qkv, c->width, c->width, element),
                   ks_act_slice(qkv, 2 * c->width, c->width, element), &how);
    ops->linear(ops, x, normed, layer->out, KS_ACT_NONE, x);
    ops->layer_norm(ops, normed, x, layer->norm2, norm_eps);
    ops->linear(ops, hidden, normed, layer->fc1, c->quick_gelu ? KS_ACT_QUICK_GELU : KS_ACT_GELU,
                (ks_act){0});
    ops->linear(ops, x, hidden, layer->fc2, KS_ACT_NONE, x);
    ops->unwind(ops, mark);
}

void ks_text_memory_free(ks_text_memory *memory, ks_ops *ops)
{
    if (memory->ids)
        ops->release(ops, memory->ids);
    if (memory->states)
        ops->release(ops, memory->states);
    *memory = (ks_text_memory){0};
}

static int make_room(ks_text_memory *memory, ks_ops *ops, const ks_text_config *c, int blocks, ks_error *err)
{
    if (blocks <= memory->blocks)
        return 0;
    size_t count = (size_t)blocks * (size_t)c->tokens;
    ks_text_memory_free(memory, ops);
    memory->ids = ops->alloc(ops, count * sizeof *memory->ids, err);
    memory->states = memory->ids ? ops->alloc(ops, count * (size_t)c->width * sizeof(float), err) : NULL;
    if (!memory->states)
        return -1;
    memory->blocks = blocks;
    return 0;
}

int ks_text_queue(const ks_text *t, ks_ops *ops, ks_text_memory *memory, const int32_t *ids, int blocks, float *out,
                  ks_error *err)
{
    const ks_text_config *c = t->config;
    size_t count = (size_t)blocks * (size_t)c->tokens;
    if (make_room(memory, ops, c, blocks, err))
        return -1;
    size_t mark = ops->mark(ops);
    ks_act x = ops->act(ops, blocks, c->tokens, 1, c->width);
    ops->upload(ops, memory->ids, ids, count * sizeof *ids);
    ops->embedding(ops, x, memory->ids, t->tokens, t->positions);
    for (int i = 0; i < c->layers; i++)
        run_layer(&t->layer[i], ops, c, x);
    ops->layer_norm(ops, x, x, t->final_norm, norm_eps);
    ops->to_floats(ops, memory->states, x);
    ops->download(ops, out, memory->states, count * (size_t)c->width * sizeof(float));
    ops->unwind(ops, mark);
    return 0;
}
