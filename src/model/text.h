/* CLIP's text transformer (Radford et al. 2021) and the cutting of a prompt into its blocks. */
#ifndef KS_MODEL_TEXT_H
#define KS_MODEL_TEXT_H

#include "model/blocks.h"
#include "model/config.h"
#include "model/tokenizer.h"

typedef struct ks_text_layer {
    ks_weight *norm1, *qkv, *out, *norm2, *fc1, *fc2;
} ks_text_layer;

typedef struct ks_text {
    const ks_text_config *config;
    ks_weight *tokens, *positions, *final_norm;
    ks_text_layer *layer; /* [config->layers] */
} ks_text;

/* config must outlive it. -1 after a failure (ks_text_free it all the same). */
int ks_text_load(ks_text *t, ks_loader *l, const ks_text_config *config);
void ks_text_free(ks_text *t);

/* Device memory of one run, kept from run to run. */
typedef struct ks_text_memory {
    int blocks; /* that it has room for */
    int32_t *ids;
    float *states;
} ks_text_memory;

void ks_text_memory_free(ks_text_memory *memory, ks_ops *ops);

/* Queues the last hidden states after the final layer norm, host [blocks, tokens, width], of ids
 * [blocks, tokens]: they are there when what is queued now has been waited for. */
int ks_text_queue(const ks_text *t, ks_ops *ops, ks_text_memory *memory, const int32_t *ids, int blocks, float *out,
                  ks_error *err);

/* A prompt as blocks of `tokens` ids (start, ids, end, padded with end), each with its emphasis. */
typedef struct ks_prompt {
    int blocks, tokens;
    int32_t *id;     /* [blocks, tokens] */
    float *weight;   /* [blocks, tokens]; 1 for start, end and padding */
    bool emphasised; /* some weight is not 1 */
} ks_prompt;

/* Cuts a text. Emphasis is written as in ComfyUI: (words) weigh 1.1 times their surroundings,
 * (words:1.3) weigh 1.3,
 * \( and \) are brackets. A run of fewer than 8 ids of one emphasis is not cut in two by a block's
 * end. Fails where the tokenizer does. ks_prompt_free also after a failure. */
int ks_prompt_make(ks_prompt *p, const ks_tokenizer *tokenizer, const char *text, int tokens,
                   ks_error *err);
void ks_prompt_free(ks_prompt *p);

#endif
