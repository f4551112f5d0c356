/* What a checkpoint is, by the shapes of its tensors. Key names are those of the LDM code base
 * (Rombach et al. 2022), which SD 1.x, SD 2.x and SDXL files share. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/config_parts.h"

enum { LARGEST = 1 << 20, DEEPEST = 1000 }; /* no width and no depth is larger than that */

/* A part of a file: the tensors whose names begin with prefix. */
typedef struct part {
    const ks_safetensors *st;
    const char *prefix;
    ks_error *err;
} part;

typedef struct name {
    char text[256];
} name;

static name full_name(const part *p, const char *format, va_list args)
{
    name n;
    size_t used = (size_t)snprintf(n.text, sizeof n.text, "%s", p->prefix);
    vsnprintf(n.text + used, sizeof n.text - used, format, args);
    return n;
}

/* Whether the name of any tensor of the part begins like this. */
__attribute__((format(printf, 2, 3))) static bool has(const part *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    name wanted = full_name(p, format, args);
    va_end(args);
    int low = 0, high = ks_safetensors_count(p->st);
    while (low < high) { /* the first name that does not sort before wanted */
        int middle = low + (high - low) / 2;
        if (strcmp(ks_safetensors_name(p->st, middle), wanted.text) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low < ks_safetensors_count(p->st) &&
           strncmp(ks_safetensors_name(p->st, low), wanted.text, strlen(wanted.text)) == 0;
}

/* The size of the tensor's axis; -1 when the tensor is absent, has other than `rank` axes or a
 * senseless size. */
__attribute__((format(printf, 4, 5))) static int size_of(const part *p, int rank, int axis,
                                                         const char *format, ...)
{
    va_list args;
    va_start(args, format);
    name wanted = full_name(p, format, args);
    va_end(args);
    ks_view view;
    if (ks_safetensors_get(p->st, wanted.text, &view, p->err) != 0)
        return -1;
    if (view.rank != rank)
        return ks_error_set(p->err, "%s: tensor \"%s\" has %d axes; %d are wanted",
                            ks_safetensors_path(p->st), wanted.text, view.rank, rank);
    if (view.shape[axis] < 1 || view.shape[axis] > LARGEST)
        return ks_error_set(
            p->err, "%s: axis %d of tensor \"%s\" has size %lld; 1 to %d are possible",
            ks_safetensors_path(p->st), axis, wanted.text, (long long)view.shape[axis], LARGEST);
    return (int)view.shape[axis];
}

/* --- other models --- */

static const struct {
    const char *part; /* of a tensor's name */
    const char *what;
    bool always; /* also where an SD UNet is there */
} others[] = {
    {"time_stack.", "Stable Video Diffusion", true},
    {"edm_mean", "Playground v2.5", true},
    {"edm_vpred.sigma_max", "CosXL", true},
    {"lora_", "a LoRA file, not a model", false},
    {"joint_blocks.", "Stable Diffusion 3", false},
    {"single_blocks.", "Flux or a relative of it", false},
    {"double_layers.", "AuraFlow", false},
    {"clip_txt_mapper.", "Stable Cascade", false},
    {"control_model.", "a ControlNet", false},
    {"controlnet_", "a ControlNet", false},
    {"time_embedding.linear_1.", "a UNet in the layout of diffusers", false},
    {"text_model.encoder.", "a text encoder alone", false},
    {"decoder.conv_in.", "a VAE alone", false},
};

static const char *seems(const ks_safetensors *st, bool has_unet)
{
    for (size_t k = 0; k < sizeof others / sizeof *others; k++)
        for (int i = 0; (others[k].always || !has_unet) && i < ks_safetensors_count(st); i++)
            if (strstr(ks_safetensors_name(st, i), others[k].part))
                return others[k].what;
    return NULL;
}

/* "<file>: seems to be <what>; ..."; returns -1. */
static int refuse(const ks_safetensors *st, const char *what, ks_error *err)
{
    return ks_error_set(err,
                        "%s: seems to be %s; SD 1.x, SD 2.x and SDXL text-to-image models are "
                        "wanted",
                        ks_safetensors_path(st), what);
}

/* --- UNet --- */

/* Transformer blocks of the module that follows a stage's residual block. The first transformer
 * that is met tells the context's width and the kind of projections. -1 on error. */
static int depth_at(const part *p, ks_unet_config *u, const char *stage)
{
    int depth = 0;
    while (depth < DEEPEST && has(p, "%s1.transformer_blocks.%d.", stage, depth))
        depth++;
    if (depth == 0 || u->context_dim > 0)
        return depth;
    ks_view view;
    char proj_in[256];
    snprintf(proj_in, sizeof proj_in, "%s%s1.proj_in.weight", p->prefix, stage);
    u->linear_projections = ks_safetensors_find(p->st, proj_in, &view) && view.rank == 2;
    u->context_dim = size_of(p, 2, 1, "%s1.transformer_blocks.0.attn2.to_k.weight", stage);
    return u->context_dim > 0 ? depth : -1;
}

/* A stage that a UNet of ours cannot have. */
static int misfit(const part *p, int index)
{
    return ks_error_set(p->err,
                        "%s: %sinput_blocks.%d has no place in a UNet of at most %d levels of "
                        "%d equally wide residual blocks",
                        ks_safetensors_path(p->st), p->prefix, index, KS_MAX_LEVELS, KS_MAX_BLOCKS);
}

/* One residual block of the input side. Those of a level share their width. */
static int read_block(const part *p, ks_unet_config *u, int level, int index)
{
    char stage[40];
    snprintf(stage, sizeof stage, "input_blocks.%d.", index);
    int block = u->res_blocks[level], width = size_of(p, 4, 0, "%s0.out_layers.3.weight", stage);
    if (width < 0)
        return -1;
    if (block == KS_MAX_BLOCKS || width % u->model_channels != 0 ||
        (block > 0 && width != u->channel_mult[level] * u->model_channels))
        return misfit(p, index);
    u->channel_mult[level] = width / u->model_channels;
    u->depth_in[level][block] = depth_at(p, u, stage);
    u->res_blocks[level]++;
    return u->depth_in[level][block] < 0 ? -1 : 0;
}

/* A downsampling ends a level. */
static int read_levels(const part *p, ks_unet_config *u)
{
    int level = 0;
    for (int index = 1; has(p, "input_blocks.%d.", index); index++) {
        if (!has(p, "input_blocks.%d.0.op.", index)) {
            if (read_block(p, u, level, index) != 0)
                return -1;
        } else if (u->res_blocks[level] == 0 || ++level == KS_MAX_LEVELS) {
            return misfit(p, index);
        }
    }
    if (u->res_blocks[level] == 0)
        return ks_error_set(p->err, "%s: level %d of the UNet has no residual blocks",
                            ks_safetensors_path(p->st), level);
    u->levels = level + 1;
    return 0;
}

static int read_depths(const part *p, ks_unet_config *u)
{
    char stage[40];
    int index = 0, middle = depth_at(p, u, "middle_block.");
    u->depth_middle = middle > 0 ? middle : -1;
    for (int level = u->levels - 1; level >= 0; level--)
        for (int block = 0; block <= u->res_blocks[level]; block++) {
            snprintf(stage, sizeof stage, "output_blocks.%d.", index++);
            u->depth_out[level][block] = depth_at(p, u, stage);
            if (u->depth_out[level][block] < 0)
                return -1;
        }
    if (middle < 0)
        return -1;
    if (u->context_dim == 0)
        return ks_error_set(p->err, "%s: the UNet has no cross-attention",
                            ks_safetensors_path(p->st));
    return 0;
}

/* Models that are SD but do more than text to image have more input channels. */
static int check_channels(const part *p, const ks_unet_config *u)
{
    static const struct {
        int channels;
        const char *what;
    } kinds[] = {
        {5, "a depth-to-image model (5 input channels)"},
        {7, "an upscaling model (7 input channels)"},
        {8, "an instruct-pix2pix model (8 input channels)"},
        {9, "an inpainting model (9 input channels)"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (u->in_channels == kinds[i].channels && u->out_channels == 4)
            return refuse(p->st, kinds[i].what, p->err);
    if (u->in_channels != u->out_channels)
        return ks_error_set(p->err,
                            "%s: the UNet takes %d channels and gives %d; equal numbers are "
                            "wanted",
                            ks_safetensors_path(p->st), u->in_channels, u->out_channels);
    return 0;
}

static int read_channels(const part *p, ks_unet_config *u)
{
    u->model_channels = size_of(p, 4, 0, "input_blocks.0.0.weight");
    u->in_channels = u->model_channels < 0 ? -1 : size_of(p, 4, 1, "input_blocks.0.0.weight");
    u->out_channels = u->in_channels < 0 ? -1 : size_of(p, 4, 0, "out.2.weight");
    if (u->out_channels < 0)
        return -1;
    if (has(p, "label_emb.0.")) {
        u->adm_channels = size_of(p, 2, 1, "label_emb.0.0.weight");
        if (u->adm_channels < 0)
            return -1;
    }
    return check_channels(p, u);
}

int ks_unet_shapes(const ks_safetensors *st, ks_unet_config *u, ks_error *err)
{
    part p = {st, "model.diffusion_model.", err};
    if (!has(&p, "input_blocks.0.0."))
        p.prefix = "";
    bool found = has(&p, "input_blocks.0.0.");
    const char *other = seems(st, found);
    if (other)
        return refuse(st, other, err);
    if (!found)
        return ks_error_set(err,
                            "%s: has no UNet of SD 1.x, SD 2.x or SDXL (no tensor "
                            "\"model.diffusion_model.input_blocks.0.0.weight\")",
                            ks_safetensors_path(st));
    snprintf(u->prefix, sizeof u->prefix, "%s", p.prefix);
    if (read_channels(&p, u) != 0 || read_levels(&p, u) != 0)
        return -1;
    return read_depths(&p, u);
}

/* --- text encoder --- */

int ks_text_shapes(const ks_safetensors *st, ks_text_config *t, ks_error *err)
{
    part p = {st, "cond_stage_model.transformer.text_model.", err};
    if (!has(&p, "embeddings."))
        p.prefix = "cond_stage_model.transformer.";
    if (!has(&p, "embeddings."))
        return 0;
    t->present = true;
    t->quick_gelu = true;
    snprintf(t->prefix, sizeof t->prefix, "%s", p.prefix);
    while (t->layers < DEEPEST && has(&p, "encoder.layers.%d.", t->layers))
        t->layers++;
    if ((t->vocab = size_of(&p, 2, 0, "embeddings.token_embedding.weight")) < 0 ||
        (t->width = size_of(&p, 2, 1, "embeddings.token_embedding.weight")) < 0 ||
        (t->tokens = size_of(&p, 2, 0, "embeddings.position_embedding.weight")) < 0 ||
        (t->hidden = size_of(&p, 2, 0, "encoder.layers.0.mlp.fc1.weight")) < 0)
        return -1;
    return 0;
}

/* --- VAE decoder --- */

static int read_vae_levels(const part *p, ks_vae_config *v)
{
    for (; has(p, "decoder.up.%d.", v->levels); v->levels++) {
        if (v->levels == KS_MAX_LEVELS)
            break;
        v->channels[v->levels] = size_of(p, 4, 0, "decoder.up.%d.block.0.conv1.weight", v->levels);
        if (v->channels[v->levels] < 0)
            return -1;
    }
    if (v->levels != 4)
        return ks_error_set(p->err,
                            "%s: the VAE decoder has %d levels; 4 are wanted (pictures 8 "
                            "times the latent's size)",
                            ks_safetensors_path(p->st), v->levels);
    int blocks = 0;
    while (has(p, "decoder.up.0.block.%d.", blocks))
        blocks++;
    v->res_blocks = blocks - 1;
    if (v->res_blocks > KS_MAX_BLOCKS)
        return ks_error_set(p->err,
                            "%s: the VAE decoder has %d residual blocks a level; %d are "
                            "possible",
                            ks_safetensors_path(p->st), blocks, KS_MAX_BLOCKS + 1);
    return 0;
}

int ks_vae_shapes(const ks_safetensors *st, ks_vae_config *v, ks_error *err)
{
    part p = {st, "first_stage_model.", err};
    snprintf(v->prefix, sizeof v->prefix, "%s", p.prefix);
    v->present = has(&p, "decoder.");
    if (!v->present)
        return 0;
    if ((v->z_channels = size_of(&p, 4, 1, "decoder.conv_in.weight")) < 0 ||
        (v->out_channels = size_of(&p, 4, 0, "decoder.conv_out.weight")) < 0 ||
        (v->embed_channels = size_of(&p, 4, 1, "post_quant_conv.weight")) < 0)
        return -1;
    return read_vae_levels(&p, v);
}
