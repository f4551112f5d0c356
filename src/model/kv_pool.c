/* The slots of cross-attention's keys and values. */
#include "model/kv_pool.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256 };

static size_t aligned(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static size_t layer_bytes(const ks_kv_layer *layer, const ks_ops *ops, int slots, int tokens)
{
    return (size_t)slots * (size_t)tokens * 2 * (size_t)layer->c * ks_element_size(ops);
}

size_t ks_kv_slot_bytes(const ks_unet *unet, const ks_ops *ops, int tokens)
{
    size_t bytes = unet->label1 ? (size_t)unet->embedding * sizeof(float) : 0;
    for (int i = 0; i < unet->kv_layers; i++)
        bytes += layer_bytes(&unet->kv[i], ops, 1, tokens);
    return bytes;
}

/* Views of every layer's keys and values in the pool's memory. */
static void lay_out(ks_kv_pool *p)
{
    size_t element = ks_element_size(p->ops), offset = 0;
    for (int i = 0; i < p->unet->kv_layers; i++) {
        const ks_kv_layer *layer = &p->unet->kv[i];
        ks_act both = ks_act_on(p->memory + offset, p->slots, p->tokens, 1, 2 * layer->c);
        p->kv[i] = (ks_kv){.k = ks_act_slice(both, 0, layer->c, element),
                           .v = ks_act_slice(both, layer->c, layer->c, element),
                           .len = p->length};
        offset += aligned(layer_bytes(layer, p->ops, p->slots, p->tokens));
    }
}

static int allocate(ks_kv_pool *p, ks_error *err)
{
    const ks_unet_config *c = p->unet->config;
    size_t bytes = 0, slots = (size_t)p->slots, vector = (size_t)c->adm_channels;
    size_t context = (size_t)p->tokens * (size_t)c->context_dim;
    size_t staging = context > vector ? context : vector;
    for (int i = 0; i < p->unet->kv_layers; i++)
        bytes += aligned(layer_bytes(&p->unet->kv[i], p->ops, p->slots, p->tokens));
    p->kv = calloc((size_t)p->unet->kv_layers + 1, sizeof *p->kv);
    p->owner = calloc(slots, sizeof *p->owner);
    p->used = calloc(slots, sizeof *p->used);
    if (!p->kv || !p->owner || !p->used)
        return ks_error_set(err, "no memory for the slots of %d conditionings", p->slots);
    p->memory = p->ops->alloc(p->ops, bytes ? bytes : 1, err);
    p->length = p->memory ? p->ops->alloc(p->ops, slots * sizeof(int32_t), err) : NULL;
    p->staging = p->length ? p->ops->alloc(p->ops, staging * sizeof(float), err) : NULL;
    if (p->staging && p->unet->label1)
        p->label = p->ops->alloc(p->ops, slots * (size_t)p->unet->embedding * sizeof(float), err);
    if (!p->staging || (p->unet->label1 && !p->label))
        return ks_error_wrap(err, "keys and values of %d conditionings of %d tokens", p->slots,
                             p->tokens);
    return 0;
}

int ks_kv_pool_init(ks_kv_pool *p, const ks_unet *unet, ks_ops *ops, int slots, int tokens,
                    ks_error *err)
{
    *p = (ks_kv_pool){.unet = unet, .ops = ops, .slots = slots, .tokens = tokens};
    p->slot_bytes = ks_kv_slot_bytes(unet, ops, tokens);
    if (allocate(p, err) != 0)
        return -1;
    lay_out(p);
    return 0;
}

void ks_kv_pool_free(ks_kv_pool *p)
{
    if (p->ops) {
        ks_release(p->ops, p->memory);
        ks_release(p->ops, p->length);
        ks_release(p->ops, p->staging);
        ks_release(p->ops, p->label);
    }
    free(p->kv);
    free(p->owner);
    free(p->used);
    *p = (ks_kv_pool){0};
}

void ks_kv_pool_begin(ks_kv_pool *p)
{
    p->call++;
}

/* Queues every layer's keys and values, y's embedding and the number of tokens of a slot. */
static void fill(ks_kv_pool *p, int slot, const ks_kv_source *source)
{
    ks_ops *ops = p->ops;
    const ks_unet_config *c = p->unet->config;
    int32_t length = source->tokens;
    size_t mark = ops->mark(ops);
    ks_act context = ops->act(ops, 1, source->tokens, 1, c->context_dim);
    ops->upload(ops, p->staging, source->context,
                (size_t)source->tokens * (size_t)c->context_dim * sizeof(float));
    ops->from_floats(ops, context, p->staging);
    for (int i = 0; i < p->unet->kv_layers; i++) {
        const ks_act *k = &p->kv[i].k;
        size_t offset = (size_t)slot * (size_t)p->tokens * (size_t)k->stride * ks_element_size(ops);
        ks_act y = ks_act_on((char *)k->data + offset, 1, source->tokens, 1, 2 * k->c);
        ops->linear(ops, y, context, p->unet->kv[i].w, KS_ACT_NONE, (ks_act){0});
    }
    ops->unwind(ops, mark);
    if (p->label) {
        ops->upload(ops, p->staging, source->y, (size_t)c->adm_channels * sizeof(float));
        ks_unet_label(p->unet, ops, p->label + (size_t)slot * (size_t)p->unet->embedding,
                      p->staging);
    }
    ops->upload(ops, p->length + slot, &length, sizeof length);
}

int ks_kv_pool_slot(ks_kv_pool *p, const ks_kv_source *source)
{
    int oldest = 0;
    for (int i = 0; i < p->slots; i++) {
        if (p->owner[i] == source->id) {
            p->used[i] = p->call;
            return i;
        }
        if (p->used[i] < p->used[oldest])
            oldest = i;
    }
    fill(p, oldest, source);
    p->owner[oldest] = source->id;
    p->used[oldest] = p->call;
    return oldest;
}

bool ks_kv_pool_holds(const ks_kv_pool *p, uint64_t id)
{
    for (int i = 0; i < p->slots; i++)
        if (p->owner[i] == id)
            return true;
    return false;
}
