/* Conditionings: their source stays on the host, the model's slots hold what the network reads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/internal.h"

ks_cond *ks_cond_new(ks_model *m, const float *context, int tokens, const float *y, ks_error *err)
{
    const ks_unet_config *c = &m->config.unet;
    if (tokens < 1) {
        ks_error_set(err, "a conditioning of %d tokens; it needs at least 1", tokens);
        return NULL;
    }
    if ((y != NULL) != (c->adm_channels > 0)) {
        ks_error_set(
            err, y ? "a %s model takes no vector y" : "a %s model needs a vector y of %d values",
            m->config.family, c->adm_channels);
        return NULL;
    }
    size_t values = (size_t)tokens * (size_t)c->context_dim,
           vector = y ? (size_t)c->adm_channels : 0;
    ks_cond *cond = malloc(sizeof *cond + (values + vector) * sizeof(float));
    if (!cond) {
        ks_error_set(err, "no memory for a conditioning of %d tokens", tokens);
        return NULL;
    }
    float *copy = (float *)(cond + 1);
    memcpy(copy, context, values * sizeof(float));
    if (y)
        memcpy(copy + values, y, vector * sizeof(float));
    *cond = (ks_cond){m, {++m->conds, tokens, copy, y ? copy + values : NULL}};
    if (tokens > m->longest && m->unet.split.parts == 1)
        m->longest = tokens;
    return cond;
}

void ks_cond_free(ks_cond *c)
{
    free(c);
}

uint64_t ks_cond_content(const ks_cond *c, int *tokens, const float **context, const float **y)
{
    *tokens = c->source.tokens;
    *context = c->source.context;
    *y = c->source.y;
    return c->source.id;
}

size_t ks_cond_bytes(const ks_cond *c)
{
    const ks_kv_pool *pool = &c->model->pool;
    return ks_kv_pool_holds(pool, c->source.id) ? pool->slot_bytes : 0;
}

/* Frequencies are rounded to float32 where torch rounds them: at a thousand pixels the fastest
 * angles feel the last bit. */
void ks_sdxl_vector(const float *pooled, int pooled_width, const int size[6], float *y)
{
    enum { SIZES = 6, WIDTH = 256, HALF = WIDTH / 2 };
    const float fall = -(float)log(10000.0);
    memcpy(y, pooled, (size_t)pooled_width * sizeof(float));
    for (int i = 0; i < SIZES; i++) {
        float *out = y + pooled_width + (ptrdiff_t)i * WIDTH;
        for (int j = 0; j < HALF; j++) {
            float exponent = fall * (float)j / (float)HALF;
            float angle = (float)size[i] * (float)exp((double)exponent);
            out[j] = (float)cos((double)angle);
            out[HALF + j] = (float)sin((double)angle);
        }
    }
}
