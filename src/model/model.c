/* A model's life: loading and freeing. Its calls: network.c, encode.c, decode.c. */
#include <stdlib.h>

#include "model/internal.h"

/* Text model and tokenizer. */
static int load_text(ks_model *m, ks_loader *l, const char *tokenizer_folder, ks_error *err)
{
    const ks_text_config *c = &m->config.text;
    if (!c->present)
        return ks_error_set(err, "%s holds no text encoder", ks_safetensors_path(l->st));
    if (!tokenizer_folder)
        return ks_error_set(err, "%s: its text encoder needs a tokenizer folder",
                            ks_safetensors_path(l->st));
    m->tokenizer = ks_tokenizer_open(tokenizer_folder, err);
    if (!m->tokenizer)
        return -1;
    if (ks_tokenizer_vocab(m->tokenizer) > c->vocab)
        return ks_error_set(err, "%s: the tokenizer has %d tokens, the text encoder of %s only %d",
                            tokenizer_folder, ks_tokenizer_vocab(m->tokenizer),
                            ks_safetensors_path(l->st), c->vocab);
    return ks_text_load(&m->text, l, c);
}

static int load_vae(ks_model *m, ks_loader *l, ks_error *err)
{
    if (!m->config.vae.present)
        return ks_error_set(err, "%s holds no VAE decoder", ks_safetensors_path(l->st));
    m->has_vae = true;
    return ks_vae_load(&m->vae, l, &m->config.vae);
}

/* The parts that are asked for; of the UNet the loader's. */
static int load_parts(ks_model *m, ks_loader *l, int parts, const char *tokenizer_folder, ks_error *err)
{
    if (ks_unet_split_fits(&m->config.unet, l->split.parts, err) != 0)
        return ks_error_wrap(err, "%s", ks_safetensors_path(l->st));
    if (ks_unet_load(&m->unet, l, &m->config.unet) != 0)
        return -1;
    l->split = ks_unsplit;
    if ((parts & KS_LOAD_TEXT) && load_text(m, l, tokenizer_folder, err) != 0)
        return -1;
    return (parts & KS_LOAD_VAE) ? load_vae(m, l, err) : 0;
}

ks_model *ks_model_load(const ks_safetensors *st, const ks_model_config *config, ks_ops *ops, const ks_split *split,
                        int parts, const char *tokenizer_folder, ks_error *err)
{
    ks_model *m = calloc(1, sizeof *m);
    if (!m) {
        ks_error_set(err, "%s: no memory for a model", ks_safetensors_path(st));
        return NULL;
    }
    m->config = *config;
    m->ops = ops;
    ks_loader l = {.st = st, .ops = ops, .split = split ? *split : ks_unsplit, .list = &m->weights, .err = err};
    int result = load_parts(m, &l, parts, tokenizer_folder, err);
    ks_loader_end(&l);
    if (result == 0)
        return m;
    ks_model_free(m);
    return NULL;
}

void ks_model_free(ks_model *m)
{
    if (!m)
        return;
    ks_kv_pool_free(&m->pool);
    ks_release(m->ops, m->device);
    free(m->host);
    ks_unet_free(&m->unet);
    for (int i = 0; i < KS_ENCODINGS; i++)
        ks_text_memory_free(&m->encoding_memory[i], m->ops);
    free(m->empty_states);
    ks_text_free(&m->text);
    ks_tokenizer_free(m->tokenizer);
    ks_weight_list_free(&m->weights, m->ops);
    free(m);
}

const ks_model_config *ks_model_config_of(const ks_model *m)
{
    return &m->config;
}

int ks_model_wait(ks_model *m, ks_error *err)
{
    return m->ops->sync(m->ops, err);
}
