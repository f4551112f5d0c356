/* Where the keys and values of cross-attention stand: a fixed number of slots, each with one
 * conditioning's for all layers, and its embedding of y. A conditioning is computed into a slot
 * when a row first needs it and stays until the slot that was used longest ago is wanted for
 * another; computing it again gives the same bits. So memory is bounded however many prompts a
 * sweep has, and the arrays that attention reads never move within a plan. */
#ifndef KS_MODEL_KV_POOL_H
#define KS_MODEL_KV_POOL_H

#include "model/unet.h"

/* A conditioning's source, on the host. id: never used twice, 0 for none. */
typedef struct ks_kv_source {
    uint64_t id;
    int tokens;
    const float *context; /* [tokens, context_dim] */
    const float *y;       /* [adm_channels] or NULL */
} ks_kv_source;

typedef struct ks_kv_pool {
    const ks_unet *unet;
    ks_ops *ops;
    int slots, tokens; /* tokens: room in a slot */
    char *memory;      /* device: for each layer [slots, tokens, 2 c] */
    ks_kv *kv;         /* [layers]: views into memory; kv[].row is set by the caller */
    float *label;      /* device [slots, embedding], or NULL */
    float *staging;    /* device: one context, or one y, as it comes from the host */
    int32_t *length;   /* device [slots] */
    uint64_t *owner;   /* [slots] id of the conditioning that is there */
    uint64_t *used;    /* [slots] the call that last used it */
    uint64_t call;
    size_t slot_bytes;
} ks_kv_pool;

/* Bytes of one slot with room for so many tokens. */
size_t ks_kv_slot_bytes(const ks_unet *unet, const ks_ops *ops, int tokens);

/* Makes the pool; -1 without device memory. ks_kv_pool_free also after a failure. */
int ks_kv_pool_init(ks_kv_pool *p, const ks_unet *unet, ks_ops *ops, int slots, int tokens,
                    ks_error *err);
void ks_kv_pool_free(ks_kv_pool *p);

/* Starts a call: slots that are taken from now on stay until the next call. */
void ks_kv_pool_begin(ks_kv_pool *p);

/* The slot of a conditioning, which is computed into one unless it is there; at most `slots`
 * different ones a call, of at most `tokens` tokens. */
int ks_kv_pool_slot(ks_kv_pool *p, const ks_kv_source *source);

/* Whether the conditioning is in a slot now. */
bool ks_kv_pool_holds(const ks_kv_pool *p, uint64_t id);

#endif
