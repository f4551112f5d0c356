/* Every tensor a config implies, against what the file holds. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/config_parts.h"

typedef struct shape {
    int rank;
    int64_t size[4];
} shape;

typedef struct checker {
    const ks_safetensors *st;
    const char *prefix;          /* stands before every name */
    bool *seen;                  /* by the file's index of tensors */
    int64_t elements[KS_U8 + 1]; /* met, by type */
    bool failed;                 /* err tells; all later checks do nothing */
    ks_error *err;
} checker;

/* --- one tensor --- */

typedef struct words {
    char text[256];
} words;

__attribute__((format(printf, 1, 2))) static words format_words(const char *format, ...)
{
    words w;
    va_list args;
    va_start(args, format);
    vsnprintf(w.text, sizeof w.text, format, args);
    va_end(args);
    return w;
}

/* "[320, 4, 3, 3]" */
static words shape_words(int rank, const int64_t *size)
{
    words w = {"["};
    for (int i = 0; i < rank; i++)
        w = format_words("%s%s%lld", w.text, i ? ", " : "", (long long)size[i]);
    return format_words("%s]", w.text);
}

static bool same_shape(const ks_view *view, const shape *wanted)
{
    if (view->rank != wanted->rank)
        return false;
    for (int i = 0; i < view->rank; i++)
        if (view->shape[i] != wanted->size[i])
            return false;
    return true;
}

/* The tensor <prefix><base><leaf> must be there with this shape. */
static void want(checker *c, const char *base, const char *leaf, shape wanted)
{
    ks_view view;
    if (c->failed)
        return;
    words full = format_words("%s%s%s", c->prefix, base, leaf);
    const char *name = full.text;
    words size = shape_words(wanted.rank, wanted.size);
    c->failed = true;
    if (ks_safetensors_get(c->st, name, &view, c->err) != 0) {
        if (ks_safetensors_index(c->st, name) < 0)
            ks_error_set(c->err, "%s: has no tensor \"%s\"; one of shape %s is wanted",
                         ks_safetensors_path(c->st), name, size.text);
    } else if (!same_shape(&view, &wanted)) {
        ks_error_set(c->err, "%s: tensor \"%s\" has shape %s; %s is wanted",
                     ks_safetensors_path(c->st), name, shape_words(view.rank, view.shape).text,
                     size.text);
    } else if (ks_view_elements(&view) == 0) {
        ks_error_set(c->err, "%s: tensor \"%s\" of shape %s holds nothing",
                     ks_safetensors_path(c->st), name, size.text);
    } else if (view.dtype >= KS_I32) {
        ks_error_set(c->err, "%s: tensor \"%s\" is of type %s; F32, F16 or BF16 is wanted",
                     ks_safetensors_path(c->st), name, ks_dtype_name(view.dtype));
    } else {
        c->failed = false;
        c->seen[ks_safetensors_index(c->st, name)] = true;
        c->elements[view.dtype] += ks_view_elements(&view);
    }
}

/* --- layers --- */

static void norm(checker *c, const char *base, const char *layer, int width)
{
    words name = format_words("%s%s", base, layer);
    want(c, name.text, ".weight", (shape){1, {width}});
    want(c, name.text, ".bias", (shape){1, {width}});
}

/* Every group norm of these networks has 32 groups. */
static void group_norm(checker *c, const char *base, const char *layer, int width)
{
    norm(c, base, layer, width);
    if (c->failed || width % 32 == 0)
        return;
    c->failed = true;
    ks_error_set(c->err, "%s: the %d channels of the norm \"%s%s%s\" do not make 32 groups",
                 ks_safetensors_path(c->st), width, c->prefix, base, layer);
}

static void linear(checker *c, const char *base, const char *layer, int out, int in)
{
    words name = format_words("%s%s", base, layer);
    want(c, name.text, ".weight", (shape){2, {out, in}});
    want(c, name.text, ".bias", (shape){1, {out}});
}

static void conv(checker *c, const char *base, const char *layer, int out, int in, int side)
{
    words name = format_words("%s%s", base, layer);
    want(c, name.text, ".weight", (shape){4, {out, in, side, side}});
    want(c, name.text, ".bias", (shape){1, {out}});
}

/* --- UNet --- */

static void unet_resblock(checker *c, const char *base, int in, int out, int embedding)
{
    group_norm(c, base, "in_layers.0", in);
    conv(c, base, "in_layers.2", out, in, 3);
    linear(c, base, "emb_layers.1", out, embedding);
    group_norm(c, base, "out_layers.0", out);
    conv(c, base, "out_layers.3", out, out, 3);
    if (in != out)
        conv(c, base, "skip_connection", out, in, 1);
}

static void attention(checker *c, const char *base, const char *which, int width, int context)
{
    words name = format_words("%s%s", base, which);
    want(c, name.text, ".to_q.weight", (shape){2, {width, width}});
    want(c, name.text, ".to_k.weight", (shape){2, {width, context}});
    want(c, name.text, ".to_v.weight", (shape){2, {width, context}});
    linear(c, name.text, ".to_out.0", width, width);
}

static void transformer(checker *c, const ks_unet_config *u, const char *base, int width, int depth)
{
    group_norm(c, base, "norm", width);
    for (int i = 0; i < 2; i++) {
        const char *layer = i ? "proj_out" : "proj_in";
        if (u->linear_projections)
            linear(c, base, layer, width, width);
        else
            conv(c, base, layer, width, width, 1);
    }
    for (int d = 0; d < depth && !c->failed; d++) {
        words block = format_words("%stransformer_blocks.%d.", base, d);
        norm(c, block.text, "norm1", width);
        attention(c, block.text, "attn1", width, width);
        norm(c, block.text, "norm2", width);
        attention(c, block.text, "attn2", width, u->context_dim);
        norm(c, block.text, "norm3", width);
        linear(c, block.text, "ff.net.0.proj", 8 * width, width);
        linear(c, block.text, "ff.net.2", width, 4 * width);
    }
}

/* A residual block and what may follow it, at "<list>.<index>.". */
static void unet_stage(checker *c, const ks_unet_config *u, const char *list, int index, int in,
                       int out, int depth)
{
    words first = format_words("%s.%d.0.", list, index);
    unet_resblock(c, first.text, in, out, 4 * u->model_channels);
    words second = format_words("%s.%d.1.", list, index);
    if (depth > 0)
        transformer(c, u, second.text, out, depth);
}

enum { SKIPS = KS_MAX_LEVELS * (KS_MAX_BLOCKS + 1) + 1 };

/* Widths of the skip connections into skip. Returns how many. */
static int unet_inputs(checker *c, const ks_unet_config *u, int skip[SKIPS])
{
    int width = u->model_channels, count = 0;
    conv(c, "input_blocks.0.0", "", width, u->in_channels, 3);
    skip[count++] = width;
    for (int level = 0; level < u->levels; level++) {
        int out = u->channel_mult[level] * u->model_channels;
        for (int b = 0; b < u->res_blocks[level]; b++) {
            unet_stage(c, u, "input_blocks", count, width, out, u->depth_in[level][b]);
            skip[count++] = width = out;
        }
        if (level + 1 == u->levels)
            break;
        words base = format_words("input_blocks.%d.0.op", count);
        conv(c, base.text, "", width, width, 3);
        skip[count++] = width;
    }
    return count;
}

static void unet_middle(checker *c, const ks_unet_config *u, int width)
{
    int embedding = 4 * u->model_channels;
    unet_resblock(c, "middle_block.0.", width, width, embedding);
    if (u->depth_middle < 0)
        return;
    transformer(c, u, "middle_block.1.", width, u->depth_middle);
    unet_resblock(c, "middle_block.2.", width, width, embedding);
}

static void unet_outputs(checker *c, const ks_unet_config *u, const int *skip, int skips, int width)
{
    int index = 0;
    for (int level = u->levels - 1; level >= 0; level--) {
        int out = u->channel_mult[level] * u->model_channels;
        for (int b = 0; b <= u->res_blocks[level]; b++, index++) {
            int depth = u->depth_out[level][b];
            unet_stage(c, u, "output_blocks", index, width + skip[--skips], out, depth);
            width = out;
            if (level == 0 || b < u->res_blocks[level])
                continue;
            words base = format_words("output_blocks.%d.%d.conv", index, depth > 0 ? 2 : 1);
            conv(c, base.text, "", width, width, 3);
        }
    }
}

static void check_unet(checker *c, const ks_unet_config *u)
{
    int skip[SKIPS], embedding = 4 * u->model_channels;
    int top = u->channel_mult[u->levels - 1] * u->model_channels;
    c->prefix = u->prefix;
    linear(c, "time_embed.0", "", embedding, u->model_channels);
    linear(c, "time_embed.2", "", embedding, embedding);
    if (u->adm_channels > 0) {
        linear(c, "label_emb.0.0", "", embedding, u->adm_channels);
        linear(c, "label_emb.0.2", "", embedding, embedding);
    }
    int skips = unet_inputs(c, u, skip);
    unet_middle(c, u, top);
    unet_outputs(c, u, skip, skips, top);
    group_norm(c, "out.0", "", u->model_channels);
    conv(c, "out.2", "", u->out_channels, u->model_channels, 3);
}

/* A tensor that this network has no place for means that the network is another one. */
static void check_no_others(checker *c)
{
    size_t length = strlen(c->prefix);
    for (int i = 0; length > 0 && !c->failed && i < ks_safetensors_count(c->st); i++) {
        const char *name = ks_safetensors_name(c->st, i);
        if (c->seen[i] || strncmp(name, c->prefix, length) != 0)
            continue;
        c->failed = true;
        ks_error_set(c->err,
                     "%s: tensor \"%.200s\" has no place in a UNet of SD 1.x, SD 2.x or SDXL",
                     ks_safetensors_path(c->st), name);
    }
}

static void count_unet(const checker *c, ks_model_config *config)
{
    int most = 0;
    for (int type = 0; type <= KS_U8; type++) {
        config->parameters += c->elements[type];
        config->bytes += c->elements[type] * (int64_t)ks_dtype_size((ks_dtype)type);
        if (c->elements[type] > c->elements[most])
            most = type;
    }
    snprintf(config->dtype, sizeof config->dtype, "%s", ks_dtype_name((ks_dtype)most));
}

/* --- text encoder and VAE decoder --- */

static void check_text(checker *c, const ks_text_config *t)
{
    c->prefix = t->prefix;
    want(c, "embeddings.token_embedding", ".weight", (shape){2, {t->vocab, t->width}});
    want(c, "embeddings.position_embedding", ".weight", (shape){2, {t->tokens, t->width}});
    for (int i = 0; i < t->layers && !c->failed; i++) {
        words base = format_words("encoder.layers.%d.", i);
        norm(c, base.text, "layer_norm1", t->width);
        linear(c, base.text, "self_attn.q_proj", t->width, t->width);
        linear(c, base.text, "self_attn.k_proj", t->width, t->width);
        linear(c, base.text, "self_attn.v_proj", t->width, t->width);
        linear(c, base.text, "self_attn.out_proj", t->width, t->width);
        norm(c, base.text, "layer_norm2", t->width);
        linear(c, base.text, "mlp.fc1", t->hidden, t->width);
        linear(c, base.text, "mlp.fc2", t->width, t->hidden);
    }
    norm(c, "final_layer_norm", "", t->width);
}

static void vae_resblock(checker *c, const char *base, int in, int out)
{
    group_norm(c, base, "norm1", in);
    conv(c, base, "conv1", out, in, 3);
    group_norm(c, base, "norm2", out);
    conv(c, base, "conv2", out, out, 3);
    if (in != out)
        conv(c, base, "nin_shortcut", out, in, 1);
}

static void vae_middle(checker *c, int width)
{
    static const char *const projections[] = {"q", "k", "v", "proj_out"};
    vae_resblock(c, "decoder.mid.block_1.", width, width);
    group_norm(c, "decoder.mid.attn_1.", "norm", width);
    for (int i = 0; i < 4; i++)
        conv(c, "decoder.mid.attn_1.", projections[i], width, width, 1);
    vae_resblock(c, "decoder.mid.block_2.", width, width);
}

static void check_vae(checker *c, const ks_vae_config *v)
{
    int width = v->channels[v->levels - 1];
    c->prefix = v->prefix;
    conv(c, "post_quant_conv", "", v->z_channels, v->embed_channels, 1);
    conv(c, "decoder.conv_in", "", width, v->z_channels, 3);
    vae_middle(c, width);
    for (int level = v->levels - 1; level >= 0; level--) {
        for (int b = 0; b <= v->res_blocks; b++) {
            words base = format_words("decoder.up.%d.block.%d.", level, b);
            vae_resblock(c, base.text, width, v->channels[level]);
            width = v->channels[level];
        }
        words base = format_words("decoder.up.%d.upsample.conv", level);
        if (level > 0)
            conv(c, base.text, "", width, width, 3);
    }
    group_norm(c, "decoder.norm_out", "", width);
    conv(c, "decoder.conv_out", "", v->out_channels, width, 3);
}

int ks_check_tensors(const ks_safetensors *st, ks_model_config *config, ks_error *err)
{
    checker c = {.st = st, .err = err};
    c.seen = ks_calloc((size_t)ks_safetensors_count(st), sizeof *c.seen);
    check_unet(&c, &config->unet);
    check_no_others(&c);
    if (!c.failed)
        count_unet(&c, config);
    if (config->text.present)
        check_text(&c, &config->text);
    if (config->vae.present)
        check_vae(&c, &config->vae);
    free(c.seen);
    return c.failed ? -1 : 0;
}
