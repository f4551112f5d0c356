/* The VAE's decoder. */
#include "model/vae.h"

static const float norm_eps = 1e-6f;

static const ks_resblock_names res_names = {"norm1", "conv1", "norm2", "conv2", "nin_shortcut"};

static void load_attention(ks_vae_attention *a, ks_loader *l, const char *base, int c)
{
    const ks_name qkv[3] = {ks_join(base, "q"), ks_join(base, "k"), ks_join(base, "v")};
    const int out[3] = {c, c, c};
    a->norm = ks_load_norm(l, ks_join(base, "norm").text, c);
    a->qkv = ks_load_fused(l, 3, qkv, c, out, true);
    a->out = ks_load_linear(l, ks_join(base, "proj_out").text, c, c, true);
}

/* A level's blocks begin with the channels of the coarser level. */
static void load_level(ks_vae *v, ks_loader *l, const char *decoder, int level)
{
    const ks_vae_config *c = v->config;
    ks_vae_level *up = &v->level[level];
    int out = c->channels[level], in = level + 1 < c->levels ? c->channels[level + 1] : out;
    up->blocks = c->res_blocks + 1;
    for (int b = 0; b < up->blocks; b++)
        ks_resblock_load(&up->block[b], l, ks_join(decoder, "up.%d.block.%d.", level, b).text,
                         &res_names, b ? out : in, out, norm_eps);
    if (level > 0)
        up->up = ks_load_upsample(l, ks_join(decoder, "up.%d.upsample.conv", level).text, out);
}

int ks_vae_load(ks_vae *v, ks_loader *l, const ks_vae_config *config)
{
    ks_name decoder = ks_join(config->prefix, "decoder.");
    const char *base = decoder.text;
    int top = config->channels[config->levels - 1];
    *v = (ks_vae){.config = config};
    v->post_quant = ks_load_linear(l, ks_join(config->prefix, "post_quant_conv").text,
                                   config->embed_channels, config->z_channels, true);
    v->conv_in = ks_load_conv(l, ks_join(base, "conv_in").text, config->z_channels, top, 3);
    for (int i = 0; i < 2; i++)
        ks_resblock_load(&v->middle[i], l, ks_join(base, "mid.block_%d.", i + 1).text, &res_names,
                         top, top, norm_eps);
    load_attention(&v->attention, l, ks_join(base, "mid.attn_1.").text, top);
    for (int level = config->levels - 1; level >= 0; level--)
        load_level(v, l, base, level);
    v->norm_out = ks_load_norm(l, ks_join(base, "norm_out").text, config->channels[0]);
    v->conv_out = ks_load_conv(l, ks_join(base, "conv_out").text, config->channels[0],
                               config->out_channels, 3);
    return l->failed ? -1 : 0;
}

int ks_vae_factor(const ks_vae_config *config)
{
    return 1 << (config->levels - 1);
}

/* x += attention over all pixels of x. */
static void attend(const ks_vae_attention *a, ks_ops *ops, ks_act x)
{
    size_t mark = ops->mark(ops), element = ks_element_size(ops);
    ks_act normed = ops->act(ops, x.n, x.h, x.w, x.c);
    ks_act qkv = ops->act(ops, x.n, x.h, x.w, 3 * x.c);
    const ks_attention how = {.heads = 1};
    ops->group_norm(ops, normed, x, a->norm, KS_GROUPS, norm_eps, false);
    ops->linear(ops, qkv, normed, a->qkv, KS_ACT_NONE, (ks_act){0});
    ops->attention(ops, normed, ks_act_slice(qkv, 0, x.c, element),
                   ks_act_slice(qkv, x.c, x.c, element), ks_act_slice(qkv, 2 * x.c, x.c, element),
                   &how);
    ops->linear(ops, x, normed, a->out, KS_ACT_NONE, x);
    ops->unwind(ops, mark);
}

/* The widest activation between blocks. */
static ks_act widest(const ks_vae_config *c, int height, int width)
{
    ks_act most = {0};
    double values = 0;
    for (int level = 0; level < c->levels; level++) {
        int factor = 1 << (c->levels - 1 - level);
        int in = level + 1 < c->levels ? c->channels[level + 1] : c->channels[level];
        ks_act a = {.n = 1, .h = height * factor, .w = width * factor};
        a.c = in > c->channels[level] ? in : c->channels[level];
        if ((double)a.h * a.w * a.c > values)
            most = a;
        values = (double)most.h * most.w * most.c;
    }
    return most;
}

/* Both buffers and the inside of a residual block, as wide; the picture in float32 and in bytes. */
double ks_vae_activation_bytes(const ks_vae_config *c, int height, int width, int element)
{
    ks_act wide = widest(c, height, width);
    double pixels = (double)height * width * ks_vae_factor(c) * ks_vae_factor(c);
    return 4.0 * wide.h * wide.w * wide.c * element + pixels * c->out_channels * (element + 4 + 1);
}

/* Two buffers that the blocks pass the picture to and fro in; a block of equal widths works in
 * place. */
typedef struct picture {
    ks_ops *ops;
    void *buffer[2];
    int turn;
    ks_act x;
} picture;

static ks_act next(picture *p, int height, int width, int c)
{
    p->turn = !p->turn;
    return ks_act_on(p->buffer[p->turn], 1, height, width, c);
}

static void run_block(picture *p, const ks_resblock *r)
{
    ks_act y = r->in == r->out ? p->x : next(p, p->x.h, p->x.w, r->out);
    ks_resblock_run(r, p->ops, y, p->x, (ks_act){0});
    p->x = y;
}

static void run_level(picture *p, const ks_vae_level *level)
{
    for (int b = 0; b < level->blocks; b++)
        run_block(p, &level->block[b]);
    if (!level->up)
        return;
    ks_act y = next(p, 2 * p->x.h, 2 * p->x.w, p->x.c);
    const ks_conv how = {.stride = 1, .pad = 1, .upsample = true};
    p->ops->conv(p->ops, y, p->x, level->up, &how);
    p->x = y;
}

ks_act ks_vae_decode(const ks_vae *v, ks_ops *ops, const float *const *x, const float *one,
                     int height, int width)
{
    const ks_vae_config *c = v->config;
    const ks_conv how = {.stride = 1, .pad = 1};
    int factor = ks_vae_factor(c), top = c->channels[c->levels - 1];
    picture p = {.ops = ops};
    ks_act out = ops->act(ops, 1, height * factor, width * factor, c->out_channels);
    ks_act latent = ops->act(ops, 1, height, width, c->embed_channels);
    ks_act z = ops->act(ops, 1, height, width, c->z_channels);
    ks_act wide = widest(c, height, width);
    for (int i = 0; i < 2; i++)
        p.buffer[i] = ops->act(ops, 1, wide.h, wide.w, wide.c).data;
    ops->from_latents(ops, latent, x, one);
    ops->linear(ops, z, latent, v->post_quant, KS_ACT_NONE, (ks_act){0});
    p.x = next(&p, height, width, top);
    ops->conv(ops, p.x, z, v->conv_in, &how);
    run_block(&p, &v->middle[0]);
    attend(&v->attention, ops, p.x);
    run_block(&p, &v->middle[1]);
    for (int level = c->levels - 1; level >= 0; level--)
        run_level(&p, &v->level[level]);
    ops->group_norm(ops, p.x, p.x, v->norm_out, KS_GROUPS, norm_eps, true);
    ops->conv(ops, out, p.x, v->conv_out, &how);
    return out;
}
