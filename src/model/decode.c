/* From latents to pictures. */
#include "model/internal.h"

/* Device memory that decoding one latent after another needs. */
typedef struct decoding {
    float *latent, *floats;
    const float **pointer; /* to latent, followed by the number 1 */
    uint8_t *rgb;
} decoding;

static int prepare(decoding *d, ks_ops *ops, size_t latent, size_t values, ks_error *err)
{
    *d = (decoding){0};
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

static void finish(decoding *d, ks_ops *ops)
{
    ks_release(ops, d->rgb);
    ks_release(ops, d->floats);
    ks_release(ops, d->pointer);
    ks_release(ops, d->latent);
}

/* One picture at a time, so that memory does not grow with n. */
int ks_model_decode(ks_model *m, const float *latent, int n, int height, int width, uint8_t *rgb,
                    float *floats, ks_error *err)
{
    const ks_vae_config *c = &m->config.vae;
    ks_ops *ops = m->ops;
    if (!m->has_vae)
        return ks_error_set(err, "the model was loaded without its VAE");
    int factor = ks_vae_factor(c);
    size_t cells = (size_t)height * (size_t)width, in = cells * (size_t)c->embed_channels;
    size_t values = cells * (size_t)factor * (size_t)factor * (size_t)c->out_channels;
    decoding d;
    int result = prepare(&d, ops, in, values, err);
    for (int i = 0; result == 0 && i < n; i++) {
        size_t mark = ops->mark(ops);
        ops->upload(ops, d.latent, latent + (size_t)i * in, in * sizeof(float));
        ks_act picture =
            ks_vae_decode(&m->vae, ops, d.pointer, (const float *)(d.pointer + 1), height, width);
        ops->to_rgb(ops, d.rgb, picture);
        ops->download(ops, rgb + (size_t)i * values, d.rgb, values);
        if (floats) {
            ops->to_floats(ops, d.floats, picture);
            ops->download(ops, floats + (size_t)i * values, d.floats, values * sizeof(float));
        }
        ops->unwind(ops, mark);
        result = ops->sync(ops, err);
    }
    finish(&d, ops);
    return result;
}
