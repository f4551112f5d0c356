/* The UNet's stages, and what they cost. */
#include <string.h>

#include "model/model.h"
#include "model/unet.h"

int ks_unet_side(int side, int level)
{
    for (int i = 0; i < level; i++)
        side = (side + 1) / 2;
    return side;
}

int ks_unet_heads(const ks_unet_config *config, int c)
{
    return config->heads > 0 ? config->heads : c / config->head_channels;
}

/* Stages while they are listed, and the channels of the skip connections that wait. */
typedef struct listing {
    const ks_unet_config *config;
    ks_unet_stage *stage;
    int count, c, skips;
    int skip[KS_UNET_STAGES];
} listing;

static ks_unet_stage *add(listing *l, ks_unet_part part, int level, int out)
{
    ks_unet_stage *s = &l->stage[l->count];
    int index = l->count && s[-1].part == part ? s[-1].index + 1 : 0;
    *s = (ks_unet_stage){.part = part, .index = index, .level = level, .in = l->c, .out = out};
    l->count++;
    l->c = out;
    return s;
}

static void add_inputs(listing *l)
{
    const ks_unet_config *c = l->config;
    l->c = c->in_channels;
    add(l, KS_UNET_INPUT, 0, c->model_channels)->conv_in = true;
    l->skip[l->skips++] = l->c;
    for (int level = 0; level < c->levels; level++) {
        for (int b = 0; b < c->res_blocks[level]; b++) {
            ks_unet_stage *s =
                add(l, KS_UNET_INPUT, level, c->channel_mult[level] * c->model_channels);
            s->resblocks = 1;
            s->depth = c->depth_in[level][b];
            s->transformer = s->depth > 0;
            l->skip[l->skips++] = l->c;
        }
        if (level + 1 < c->levels) {
            add(l, KS_UNET_INPUT, level, l->c)->down = true;
            l->skip[l->skips++] = l->c;
        }
    }
}

static void add_outputs(listing *l)
{
    const ks_unet_config *c = l->config;
    for (int level = c->levels - 1; level >= 0; level--)
        for (int b = 0; b <= c->res_blocks[level]; b++) {
            ks_unet_stage *s =
                add(l, KS_UNET_OUTPUT, level, c->channel_mult[level] * c->model_channels);
            s->skip = l->skip[--l->skips];
            s->in += s->skip;
            s->resblocks = 1;
            s->depth = c->depth_out[level][b];
            s->transformer = s->depth > 0;
            s->up = level > 0 && b == c->res_blocks[level];
        }
}

int ks_unet_stages(const ks_unet_config *c, ks_unet_stage *stage)
{
    listing l = {.config = c, .stage = stage};
    add_inputs(&l);
    ks_unet_stage *middle = add(&l, KS_UNET_MIDDLE, c->levels - 1, l.c);
    middle->transformer = c->depth_middle >= 0;
    middle->depth = middle->transformer ? c->depth_middle : 0;
    middle->resblocks = middle->transformer ? 2 : 1;
    add_outputs(&l);
    return l.count;
}

static double transformer_macs(double pixels, double c, double depth, double tokens)
{
    double projections = 2 * pixels * c * c;
    double self = 4 * pixels * c * c + 2 * pixels * pixels * c;
    double cross = 2 * pixels * c * c + 2 * pixels * tokens * c;
    double feed_forward = 12 * pixels * c * c;
    return projections + depth * (self + cross + feed_forward);
}

static double stage_macs(const ks_unet_stage *s, double embedding, int height, int width,
                         int tokens)
{
    double pixels = (double)ks_unet_side(height, s->level) * ks_unet_side(width, s->level);
    double in = s->in, out = s->out, macs = 0;
    for (int i = 0; i < s->resblocks; i++) {
        double from = i ? out : in;
        macs += 9 * pixels * (from * out + out * out) + embedding * out +
                (from != out ? pixels * from * out : 0);
    }
    if (s->transformer)
        macs += transformer_macs(pixels, out, s->depth, tokens);
    if (s->conv_in)
        macs += 9 * pixels * in * out;
    int size = s->level + (s->down ? 1 : -1);
    if (s->down || s->up)
        macs += 9.0 * ks_unet_side(height, size) * ks_unet_side(width, size) * out * out;
    return macs;
}

double ks_unet_macs(const ks_unet_config *c, int height, int width, int tokens)
{
    ks_unet_stage stage[KS_UNET_STAGES];
    int count = ks_unet_stages(c, stage);
    double embedding = 4.0 * c->model_channels;
    double macs = embedding * c->model_channels + embedding * embedding;
    for (int i = 0; i < count; i++)
        macs += stage_macs(&stage[i], embedding, height, width, tokens);
    return macs + 9.0 * height * width * c->model_channels * c->out_channels;
}

/* Channels times pixels of a stage's scratch at its peak: a residual block's two activations, or a
 * transformer's tokens, their norm and the feed-forward's inside; of a split network a part of the
 * second activation and of that inside. */
static double stage_scratch(const ks_unet_stage *s, int parts, double pixels)
{
    double res = s->resblocks ? s->in + (double)s->out / parts : 0;
    double transformer = s->transformer ? (2 + 4.0 / parts) * s->out : 0;
    return pixels * (res > transformer ? res : transformer);
}

double ks_unet_activation_bytes(const ks_unet_config *c, int parts, int height, int width, int element)
{
    ks_unet_stage stage[KS_UNET_STAGES];
    int count = ks_unet_stages(c, stage);
    double joined = 0, widest = 0, scratch = 0;
    for (int i = 0; i < count; i++) {
        const ks_unet_stage *s = &stage[i];
        double inside = (double)ks_unet_side(height, s->level) * ks_unet_side(width, s->level);
        if (s->part == KS_UNET_OUTPUT)
            joined += s->in * inside;
        if (s->out * inside > widest)
            widest = s->out * inside;
        if (stage_scratch(s, parts, inside) > scratch)
            scratch = stage_scratch(s, parts, inside);
    }
    return (joined + 2 * widest + scratch) * element;
}

double ks_unet_conditioning_bytes(const ks_unet_config *c, int parts, int tokens, int element)
{
    ks_unet_stage stage[KS_UNET_STAGES];
    int count = ks_unet_stages(c, stage);
    double values = 0, label = c->adm_channels ? 4.0 * c->model_channels : 0;
    for (int i = 0; i < count; i++)
        values += stage[i].transformer ? 2.0 * stage[i].depth * stage[i].out * tokens : 0;
    return values / parts * element + label * sizeof(float);
}
