/* From latents to pictures. */
#include "model/internal.h"

int ks_decoding_begin(ks_decoding *d, ks_ops *ops, size_t latent, size_t values, ks_error *err)
{
    *d = (ks_decoding){0};
    d->latent = ops->alloc(ops, latent * sizeof(float), err);
    d->pointer = d->latent ? ops->alloc(ops, sizeof(float *) + sizeof(float), err) : NULL;
    d->floats = d->pointer ? ops->alloc(ops, values * sizeof(float), err) : NULL;
    d->rgb = d->floats ? ops->alloc(ops, values, err) : NULL;
    if (!d->rgb)
        return ks_error_wrap(err, "decoding a picture");
    const float one = 1;
    ops->upload(ops, d->pointer, &d->latent, sizeof(float *));
    ops->upload(ops, d->pointer + 1, &one, sizeof one);
    return 0;
}

void ks_decoding_end(ks_decoding *d, ks_ops *ops)
{
    ks_release(ops, d->rgb);
    ks_release(ops, d->floats);
    ks_release(ops, d->pointer);
    ks_release(ops, d->latent);
}

int ks_decode_piece(ks_model *m, ks_decoding *d, const float *latent, int height, int width, uint8_t *rgb, float *floats,
                    ks_error *err)
{
    const ks_vae_config *c = &m->config.vae;
    ks_ops *ops = m->ops;
    size_t cells = (size_t)height * (size_t)width, factor = (size_t)ks_vae_factor(c);
    size_t values = cells * factor * factor * (size_t)c->out_channels;
    size_t mark = ops->mark(ops);
    ops->upload(ops, d->latent, latent, cells * (size_t)c->embed_channels * sizeof(float));
    if (ops->clock_begin)
        ops->clock_begin(ops, KS_CLOCK_DECODE);
    ks_act picture = ks_vae_decode(&m->vae, ops, d->pointer, (const float *)(d->pointer + 1), height, width);
    if (rgb)
        ops->to_rgb(ops, d->rgb, picture);
    if (floats)
        ops->to_floats(ops, d->floats, picture);
    if (ops->clock_end)
        ops->clock_end(ops);
    if (rgb)
        ops->download(ops, rgb, d->rgb, values);
    if (floats)
        ops->download(ops, floats, d->floats, values * sizeof(float));
    ops->unwind(ops, mark);
    return ops->sync(ops, err);
}

/* Whether a picture is decoded in tiles: by its size alone, so that its bits do not depend on the memory that there is. */
static bool takes_tiles(const ks_vae_config *c, int height, int width, int element)
{
    const double most = 12 * 0x1p30;
    return ks_vae_activation_bytes(c, height, width, element) > most;
}

double ks_decode_bytes(const ks_vae_config *c, int height, int width, int element)
{
    if (!takes_tiles(c, height, width, element))
        return ks_vae_activation_bytes(c, height, width, element);
    int tile_height = height < KS_TILE_SIDE ? height : KS_TILE_SIDE, tile_width = width < KS_TILE_SIDE ? width : KS_TILE_SIDE;
    return ks_vae_activation_bytes(c, tile_height, tile_width, element);
}

/* One picture at a time, so that memory does not grow with n. */
int ks_model_decode(ks_model *m, const float *latent, int n, int height, int width, uint8_t *rgb,
                    float *floats, ks_error *err)
{
    const ks_vae_config *c = &m->config.vae;
    if (!m->has_vae)
        return ks_error_set(err, "the model was loaded without its VAE");
    size_t cells = (size_t)height * (size_t)width, in = cells * (size_t)c->embed_channels, factor = (size_t)ks_vae_factor(c);
    size_t values = cells * factor * factor * (size_t)c->out_channels;
    bool tiles = takes_tiles(c, height, width, (int)ks_element_size(m->ops));
    ks_decoding d = {0};
    int result = tiles ? 0 : ks_decoding_begin(&d, m->ops, in, values, err);
    for (int i = 0; result == 0 && i < n; i++) {
        uint8_t *bytes = rgb + (size_t)i * values;
        float *raw = floats ? floats + (size_t)i * values : NULL;
        if (tiles)
            result = ks_decode_tiles(m, latent + (size_t)i * in, height, width, KS_TILE_SIDE, KS_TILE_OVERLAP, bytes, raw, err);
        else
            result = ks_decode_piece(m, &d, latent + (size_t)i * in, height, width, bytes, raw, err);
    }
    ks_decoding_end(&d, m->ops);
    return result;
}
