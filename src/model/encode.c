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

/* The blocks' states; an emphasised prompt needs those of the empty prompt too. */
static int encode_prompt(ks_model *m, const ks_prompt *p, float *states, ks_error *err)
{
    const ks_text_config *c = &m->config.text;
    if (ks_text_run(&m->text, m->ops, p->id, p->blocks, states, err) != 0)
        return -1;
    if (!p->emphasised)
        return 0;
    ks_prompt empty;
    float *base = malloc((size_t)c->tokens * (size_t)c->width * sizeof *base);
    int result = ks_prompt_make(&empty, m->tokenizer, "", c->tokens, err);
    if (result == 0 && !base)
        result = ks_error_set(err, "no memory for a prompt's states");
    if (result == 0)
        result = ks_text_run(&m->text, m->ops, empty.id, 1, base, err);
    if (result == 0)
        emphasise(p, states, base, c->width);
    ks_prompt_free(&empty);
    free(base);
    return result;
}

int ks_model_encode_text(ks_model *m, const char *text, float **context, int *tokens, ks_error *err)
{
    const ks_text_config *c = &m->config.text;
    if (!m->tokenizer)
        return ks_error_set(err, "the model was loaded without its text encoder");
    ks_prompt prompt;
    float *states = NULL;
    int result = ks_prompt_make(&prompt, m->tokenizer, text, c->tokens, err);
    if (result == 0) {
        states =
            malloc((size_t)prompt.blocks * (size_t)c->tokens * (size_t)c->width * sizeof *states);
        result = states ? encode_prompt(m, &prompt, states, err)
                        : ks_error_set(err, "no memory for a prompt's states");
    }
    if (result == 0) {
        *context = states;
        *tokens = prompt.blocks * c->tokens;
        states = NULL;
    }
    ks_prompt_free(&prompt);
    free(states);
    return result;
}
