/* From text to context. */
#include <stdlib.h>

#include "model/internal.h"

/* states = empty + weight * (states - empty) for every emphasised token. empty: the empty prompt's
 * block. */
static void emphasise(const ks_prompt *p, float *states, const float *empty, int width)
{
    for (int i = 0; i < p->blocks * p->tokens; i++) {
        const float *base = empty + (ptrdiff_t)(i % p->tokens) * width;
        float *state = states + (ptrdiff_t)i * width;
        for (int k = 0; k < width && p->weight[i] != 1; k++)
            state[k] = (state[k] - base[k]) * p->weight[i] + base[k];
    }
}

struct ks_encoding {
    ks_model *model;
    ks_text_memory *memory; /* one of the model's; in use until the end */
    ks_prompt prompt;
    float *states;
};

/* The model's memory for one more prompt that nobody uses. */
static ks_text_memory *free_memory(ks_model *m)
{
    for (int i = 0; i < KS_ENCODINGS; i++)
        if (!m->encoding_used[i]) {
            m->encoding_used[i] = true;
            return &m->encoding_memory[i];
        }
    return NULL;
}

static float *new_states(const ks_prompt *p, int width, ks_error *err)
{
    float *states = malloc((size_t)p->blocks * (size_t)p->tokens * (size_t)width * sizeof *states);
    if (!states)
        ks_error_set(err, "no memory for a prompt's states");
    return states;
}

/* The empty prompt's states, which emphasis needs: made once. */
static int know_empty(ks_model *m, ks_text_memory *memory, ks_error *err)
{
    const ks_text_config *c = &m->config.text;
    if (m->empty_states)
        return 0;
    ks_prompt empty;
    int result = ks_prompt_make(&empty, m->tokenizer, "", c->tokens, err);
    float *states = result ? NULL : new_states(&empty, c->width, err);
    if (!states || ks_text_queue(&m->text, m->ops, memory, empty.id, 1, states, err) || m->ops->sync(m->ops, err)) {
        free(states);
        result = -1;
    } else {
        m->empty_states = states;
    }
    ks_prompt_free(&empty);
    return result;
}

static void encoding_free(ks_encoding *e)
{
    for (int i = 0; i < KS_ENCODINGS; i++)
        if (e->memory == &e->model->encoding_memory[i])
            e->model->encoding_used[i] = false;
    ks_prompt_free(&e->prompt);
    free(e->states);
    free(e);
}

ks_encoding *ks_model_encode_begin(ks_model *m, const char *text, ks_error *err)
{
    const ks_text_config *c = &m->config.text;
    if (!m->tokenizer) {
        ks_error_set(err, "the model was loaded without its text encoder");
        return NULL;
    }
    ks_encoding *e = calloc(1, sizeof *e);
    if (!e || !(e->memory = free_memory(m))) {
        ks_error_set(err, e ? "%d prompts are being encoded already" : "no memory for a prompt", KS_ENCODINGS);
        free(e);
        return NULL;
    }
    e->model = m;
    if (ks_prompt_make(&e->prompt, m->tokenizer, text, c->tokens, err) ||
        (e->prompt.emphasised && know_empty(m, e->memory, err)) || !(e->states = new_states(&e->prompt, c->width, err)) ||
        ks_text_queue(&m->text, m->ops, e->memory, e->prompt.id, e->prompt.blocks, e->states, err)) {
        encoding_free(e);
        return NULL;
    }
    return e;
}

void ks_model_encode_end(ks_encoding *e, float **context, int *tokens)
{
    if (context) {
        if (e->prompt.emphasised)
            emphasise(&e->prompt, e->states, e->model->empty_states, e->model->config.text.width);
        *context = e->states;
        *tokens = e->prompt.blocks * e->prompt.tokens;
        e->states = NULL;
    } else {
        ks_error unused = KS_ERROR_NONE; /* nothing may arrive in what is freed */
        e->model->ops->sync(e->model->ops, &unused);
    }
    encoding_free(e);
}

int ks_model_encode_text(ks_model *m, const char *text, float **context, int *tokens, ks_error *err)
{
    ks_encoding *e = ks_model_encode_begin(m, text, err);
    if (!e)
        return -1;
    int result = m->ops->sync(m->ops, err);
    ks_model_encode_end(e, result ? NULL : context, tokens);
    return result;
}
