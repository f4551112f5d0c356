#include "model/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/config_parts.h"

/* What shapes cannot tell of the families whose files are known. */
typedef struct family {
    const char *name;
    int context_dim, adm_channels;
    int heads, head_channels; /* one of them, the other 0 */
    double scale_factor;
} family;

static const family families[] = {
    {"sd15", 768, 0, 8, 0, 0.18215},
    {"sd2", 1024, 0, 0, 64, 0.18215},
    {"sdxl", 2048, 2816, 0, 64, 0.13025},
};

static const family *family_of(const ks_unet_config *u)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (families[i].context_dim == u->context_dim &&
            families[i].adm_channels == u->adm_channels && u->in_channels == 4)
            return &families[i];
    return NULL;
}

static void apply_family(const family *f, ks_model_config *config)
{
    snprintf(config->family, sizeof config->family, "%s", f->name);
    config->unet.heads = f->heads;
    config->unet.head_channels = f->head_channels;
    config->latent_scale_factor = f->scale_factor;
}

/* --- prediction --- */

/* The standard deviation of a vector's values; 0 when there is no such vector of real numbers. */
static double deviation(const ks_safetensors *st, const char *name)
{
    enum { LONGEST = 4096 };
    float value[LONGEST];
    double sum = 0, squares = 0;
    ks_view view;
    if (!ks_safetensors_find(st, name, &view) || view.rank != 1 || view.shape[0] < 1 ||
        view.shape[0] > LONGEST || ks_view_floats(&view, value, NULL) != 0)
        return 0;
    int n = (int)view.shape[0];
    for (int i = 0; i < n; i++)
        sum += value[i];
    for (int i = 0; i < n; i++)
        squares += (value[i] - sum / n) * (value[i] - sum / n);
    return sqrt(squares / n);
}

static void find_prediction(const ks_safetensors *st, ks_model_config *config)
{
    char name[160];
    bool v = ks_safetensors_index(st, "v_pred") >= 0;
    config->zsnr = v && ks_safetensors_index(st, "ztsnr") >= 0;
    if (!v && strcmp(config->family, "sd2") == 0) {
        snprintf(name, sizeof name, "%soutput_blocks.11.1.transformer_blocks.0.norm1.bias",
                 config->unet.prefix);
        v = deviation(st, name) > 0.09;
    }
    config->prediction = v ? KS_PREDICT_V : KS_PREDICT_EPS;
}

/* --- what must be known in the end --- */

static int missing(const ks_safetensors *st, const ks_unet_config *u, const char *key,
                   ks_error *err)
{
    char *json = ks_path_with_extension(ks_safetensors_path(st), ".json");
    ks_error_set(err,
                 "%s: a UNet of %d channels with context %d and vector %d is none of SD 1.x, "
                 "SD 2.x and SDXL; %s must tell %s",
                 ks_safetensors_path(st), u->in_channels, u->context_dim, u->adm_channels, json,
                 key);
    free(json);
    return -1;
}

/* The width of a transformer that heads cannot divide; 0 when there is none. */
static int undivided_width(const ks_unet_config *u)
{
    for (int level = 0; level < u->levels; level++) {
        int width = u->channel_mult[level] * u->model_channels;
        bool attends = level + 1 == u->levels && u->depth_middle >= 0;
        for (int b = 0; b < u->res_blocks[level]; b++)
            attends |= u->depth_in[level][b] > 0;
        for (int b = 0; b <= u->res_blocks[level]; b++)
            attends |= u->depth_out[level][b] > 0;
        if (attends && width % (u->heads > 0 ? u->heads : u->head_channels) != 0)
            return width;
    }
    return 0;
}

static int check_heads(const ks_safetensors *st, const ks_unet_config *u, ks_error *err)
{
    if (u->heads == 0 && u->head_channels == 0)
        return missing(st, u, "unet_config.num_heads or unet_config.num_head_channels", err);
    int width = undivided_width(u);
    if (width == 0)
        return 0;
    if (u->heads > 0)
        return ks_error_set(err, "%s: %d heads do not divide a transformer of %d channels",
                            ks_safetensors_path(st), u->heads, width);
    return ks_error_set(err, "%s: heads of %d channels do not divide a transformer of %d channels",
                        ks_safetensors_path(st), u->head_channels, width);
}

/* CLIP's heads are 64 wide in every size of it. */
static int check_text_encoder(const ks_safetensors *st, ks_model_config *config, ks_error *err)
{
    ks_text_config *t = &config->text;
    if (!t->present)
        return 0;
    if (t->width != config->unet.context_dim)
        return ks_error_set(err, "%s: the text encoder is %d wide, but the UNet's context %d",
                            ks_safetensors_path(st), t->width, config->unet.context_dim);
    if (t->heads == 0 && t->width % 64 == 0)
        t->heads = t->width / 64;
    if (t->heads == 0)
        return ks_error_set(err,
                            "%s: a text encoder of width %d is none of CLIP's; the JSON beside "
                            "it must tell text_config.num_attention_heads",
                            ks_safetensors_path(st), t->width);
    if (t->width % t->heads != 0)
        return ks_error_set(err, "%s: %d heads do not divide a text encoder of width %d",
                            ks_safetensors_path(st), t->heads, t->width);
    return 0;
}

static int check_vae(const ks_safetensors *st, const ks_model_config *config, ks_error *err)
{
    const ks_vae_config *v = &config->vae;
    if (v->present && v->embed_channels != config->unet.in_channels)
        return ks_error_set(err, "%s: the VAE's latents have %d channels, but the UNet's %d",
                            ks_safetensors_path(st), v->embed_channels, config->unet.in_channels);
    if (v->present && v->out_channels != 3)
        return ks_error_set(err, "%s: the VAE makes pictures of %d channels; 3 are wanted",
                            ks_safetensors_path(st), v->out_channels);
    return 0;
}

int ks_model_detect(const ks_safetensors *st, ks_model_config *config, ks_error *err)
{
    *config = (ks_model_config){.family = "custom", .linear_start = 0.00085, .linear_end = 0.012};
    if (ks_unet_shapes(st, &config->unet, err) != 0 ||
        ks_text_shapes(st, &config->text, err) != 0 || ks_vae_shapes(st, &config->vae, err) != 0)
        return -1;
    const family *known = family_of(&config->unet);
    if (known)
        apply_family(known, config);
    find_prediction(st, config);
    if (ks_read_model_json(st, config, err) != 0 || ks_check_tensors(st, config, err) != 0 ||
        check_heads(st, &config->unet, err) != 0 || check_text_encoder(st, config, err) != 0 ||
        check_vae(st, config, err) != 0)
        return -1;
    if (config->latent_scale_factor <= 0)
        return missing(st, &config->unet, "latent_scale_factor", err);
    return 0;
}

/* --- for people --- */

/* "1, 2, 4" of count values, each times `times`. */
static void print_list(FILE *out, const int *values, int count, int times)
{
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%d", i ? ", " : "", values[i] * times);
}

static void describe_unet(FILE *out, const ks_model_config *config)
{
    const ks_unet_config *u = &config->unet;
    fprintf(out, "UNet          %.2f M parameters, %s, %.1f MiB, \"%s\"\n",
            (double)config->parameters / 1e6, config->dtype, (double)config->bytes / 1048576.0,
            u->prefix);
    fprintf(out, "  latent      %d channels\n  levels      ", u->in_channels);
    print_list(out, u->channel_mult, u->levels, u->model_channels);
    fputs(" channels\n  blocks      ", out);
    print_list(out, u->res_blocks, u->levels, 1);
    fputs(" residual a level\n  transformer ", out);
    for (int level = 0; level < u->levels; level++) {
        fputs(level ? " | " : "", out);
        print_list(out, u->depth_in[level], u->res_blocks[level], 1);
    }
    fprintf(out, " blocks deep, middle %d, %s projections\n",
            u->depth_middle > 0 ? u->depth_middle : 0,
            u->linear_projections ? "linear" : "1x1 convolution");
    fprintf(out, "  heads       %s%d%s\n", u->heads > 0 ? "" : "of ",
            u->heads > 0 ? u->heads : u->head_channels, u->heads > 0 ? "" : " channels");
    fprintf(out, "  context     %d wide\n", u->context_dim);
    if (u->adm_channels > 0)
        fprintf(out, "  vector y    %d wide\n", u->adm_channels);
}

char *ks_model_describe(const ks_model_config *config)
{
    const ks_text_config *t = &config->text;
    const ks_vae_config *v = &config->vae;
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return ks_strdup("");
    fprintf(out, "family        %s%s\n", config->family,
            config->from_json ? " (with the JSON beside the file)" : "");
    fprintf(out, "prediction    %s%s\n", config->prediction == KS_PREDICT_V ? "v" : "eps",
            config->zsnr ? ", zero terminal SNR" : "");
    fprintf(out, "betas         scaled linear, %g to %g, %d timesteps\n", config->linear_start,
            config->linear_end, KS_TIMESTEPS);
    fprintf(out, "scale factor  %g\n", config->latent_scale_factor);
    describe_unet(out, config);
    if (t->present)
        fprintf(out, "text encoder  CLIP, %d layers of width %d, %d heads, %d tokens of %d, %s\n",
                t->layers, t->width, t->heads, t->tokens, t->vocab,
                t->quick_gelu ? "quick GELU" : "GELU");
    else
        fputs("text encoder  none that can be read\n", out);
    fputs("VAE decoder   ", out);
    print_list(out, v->channels, v->present ? v->levels : 0, 1);
    fputs(v->present ? " channels\n" : "none\n", out);
    fclose(out);
    return text;
}
