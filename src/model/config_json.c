/* The JSON beside a model file. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "model/config_parts.h"

/* A JSON and the model file that it must agree with. */
typedef struct reader {
    const ks_safetensors *st;
    ks_json root;
    ks_error *err;
} reader;

static int contradicts(const reader *r, ks_json v, long long says, long long shapes)
{
    return ks_json_error(v, r->err, "says %lld, but the tensors of %s say %lld", says,
                         ks_safetensors_path(r->st), shapes);
}

/* Where there is a number, it must be the one that the shapes tell. null counts as 0. */
static int agree(const reader *r, ks_json v, int shapes)
{
    int64_t says = 0;
    char *text = ks_json_print(v);
    bool null = text && strcmp(text, "null") == 0;
    free(text);
    if (!ks_json_exists(v))
        return 0;
    if (!null && ks_json_int(v, INT_MIN, INT_MAX, &says, r->err) != 0)
        return -1;
    return says == shapes ? 0 : contradicts(r, v, says, shapes);
}

static int agree_bool(const reader *r, ks_json v, bool shapes)
{
    bool says;
    if (!ks_json_exists(v))
        return 0;
    if (ks_json_bool(v, &says, r->err) != 0)
        return -1;
    if (says != shapes)
        return ks_json_error(v, r->err, "says %s, but the tensors of %s say %s",
                             says ? "true" : "false", ks_safetensors_path(r->st),
                             shapes ? "true" : "false");
    return 0;
}

static int agree_list(const reader *r, ks_json list, const int *shapes, int count)
{
    if (!ks_json_exists(list))
        return 0;
    if (!ks_json_is_array(list))
        return ks_json_error(list, r->err, "wanted a list of %d whole numbers", count);
    if (ks_json_size(list) != count)
        return ks_json_error(list, r->err, "has %d values, but the tensors of %s say %d",
                             ks_json_size(list), ks_safetensors_path(r->st), count);
    for (int i = 0; i < count; i++)
        if (agree(r, ks_json_at(list, i), shapes[i]) != 0)
            return -1;
    return 0;
}

/* transformer_depth has one value for each residual block, finest level first;
 * transformer_depth_output too, which is the order in which the output blocks run, backwards. */
static int agree_depths(const reader *r, ks_json unet, const ks_unet_config *u)
{
    int in[KS_MAX_LEVELS * KS_MAX_BLOCKS], out[KS_MAX_LEVELS * (KS_MAX_BLOCKS + 1)];
    int ins = 0, outs = 0;
    for (int level = 0; level < u->levels; level++) {
        for (int b = 0; b < u->res_blocks[level]; b++)
            in[ins++] = u->depth_in[level][b];
        for (int b = u->res_blocks[level]; b >= 0; b--)
            out[outs++] = u->depth_out[level][b];
    }
    if (agree_list(r, ks_json_get(unet, "transformer_depth"), in, ins) != 0 ||
        agree_list(r, ks_json_get(unet, "transformer_depth_output"), out, outs) != 0)
        return -1;
    return agree(r, ks_json_get(unet, "transformer_depth_middle"), u->depth_middle);
}

/* num_res_blocks: one number for all levels, or a list. */
static int agree_res_blocks(const reader *r, ks_json v, const ks_unet_config *u)
{
    if (!ks_json_is_number(v))
        return agree_list(r, v, u->res_blocks, u->levels);
    for (int level = 0; level < u->levels; level++)
        if (agree(r, v, u->res_blocks[level]) != 0)
            return -1;
    return 0;
}

/* num_heads and num_head_channels: -1 says that the other one counts; the latter goes first. */
static int read_heads(const reader *r, ks_json unet, ks_unet_config *u)
{
    ks_json heads = ks_json_get(unet, "num_heads"), width = ks_json_get(unet, "num_head_channels");
    int64_t count = -1, channels = -1;
    if (ks_json_exists(heads) && ks_json_int(heads, -1, 1 << 16, &count, r->err) != 0)
        return -1;
    if (ks_json_exists(width) && ks_json_int(width, -1, 1 << 16, &channels, r->err) != 0)
        return -1;
    if (count > 0 || channels > 0) {
        u->head_channels = channels > 0 ? (int)channels : 0;
        u->heads = channels > 0 ? 0 : (int)count;
    }
    return 0;
}

static int read_unet(const reader *r, ks_unet_config *u)
{
    ks_json unet = ks_json_get(r->root, "unet_config");
    if (!ks_json_exists(unet))
        return 0;
    if (!ks_json_is_object(unet))
        return ks_json_error(unet, r->err, "wanted an object");
    const struct {
        const char *key;
        int shapes;
    } numbers[] = {
        {"in_channels", u->in_channels},       {"out_channels", u->out_channels},
        {"model_channels", u->model_channels}, {"context_dim", u->context_dim},
        {"adm_in_channels", u->adm_channels},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (agree(r, ks_json_get(unet, numbers[i].key), numbers[i].shapes) != 0)
            return -1;
    if (agree_list(r, ks_json_get(unet, "channel_mult"), u->channel_mult, u->levels) != 0 ||
        agree_res_blocks(r, ks_json_get(unet, "num_res_blocks"), u) != 0 ||
        agree_depths(r, unet, u) != 0 ||
        agree_bool(r, ks_json_get(unet, "use_linear_in_transformer"), u->linear_projections) != 0)
        return -1;
    return read_heads(r, unet, u);
}

static int read_text(const reader *r, ks_text_config *t)
{
    ks_json text = ks_json_get(r->root, "text_config");
    ks_json heads = ks_json_get(text, "num_attention_heads"), act = ks_json_get(text, "hidden_act");
    int64_t count;
    const char *name;
    if (ks_json_exists(heads)) {
        if (ks_json_int(heads, 1, 1 << 16, &count, r->err) != 0)
            return -1;
        t->heads = (int)count;
    }
    if (!ks_json_exists(act))
        return 0;
    if (ks_json_string(act, &name, r->err) != 0)
        return -1;
    t->quick_gelu = strcmp(name, "quick_gelu") == 0;
    if (!t->quick_gelu && strcmp(name, "gelu") != 0)
        return ks_json_error(act, r->err, "\"%.40s\"; wanted \"quick_gelu\" or \"gelu\"", name);
    return 0;
}

/* A key that may be absent, with one of a few words. Returns the word's index, -1 when the key is
 * absent, -2 on error. */
static int one_of(const reader *r, ks_json v, const char *const *words, const char *wanted)
{
    const char *text;
    if (!ks_json_exists(v))
        return -1;
    if (ks_json_string(v, &text, r->err) != 0)
        return -2;
    for (int i = 0; words[i]; i++)
        if (strcmp(words[i], text) == 0)
            return i;
    ks_json_error(v, r->err, "\"%.40s\"; wanted %s", text, wanted);
    return -2;
}

static int read_betas(const reader *r, ks_json sampling, ks_model_config *config)
{
    ks_json start = ks_json_get(sampling, "linear_start"),
            end = ks_json_get(sampling, "linear_end");
    if (ks_json_exists(start) && ks_json_double(start, &config->linear_start, r->err) != 0)
        return -1;
    if (ks_json_exists(end) && ks_json_double(end, &config->linear_end, r->err) != 0)
        return -1;
    if (config->linear_start > 0 && config->linear_start < config->linear_end &&
        config->linear_end < 1)
        return 0;
    return ks_json_error(sampling, r->err,
                         "linear_start %g and linear_end %g; wanted 0 < "
                         "linear_start < linear_end < 1",
                         config->linear_start, config->linear_end);
}

/* beta_schedule "linear" is LDM's word for betas that are linear in their square roots, which
 * diffusers calls "scaled_linear". */
static int read_sampling(const reader *r, ks_model_config *config)
{
    static const char *const schedules[] = {"linear", "scaled_linear", NULL};
    static const char *const predictions[] = {"eps", "epsilon", "v", "v_prediction", NULL};
    ks_json sampling = ks_json_get(r->root, "sampling");
    ks_json zsnr = ks_json_get(sampling, "zsnr");
    if (!ks_json_exists(sampling))
        return 0;
    if (!ks_json_is_object(sampling))
        return ks_json_error(sampling, r->err, "wanted an object");
    ks_json steps = ks_json_get(sampling, "timesteps");
    int64_t count;
    if (ks_json_exists(steps) &&
        ks_json_int(steps, KS_TIMESTEPS, KS_TIMESTEPS, &count, r->err) != 0)
        return -1;
    if (one_of(r, ks_json_get(sampling, "beta_schedule"), schedules, "\"linear\"") < -1)
        return -1;
    int prediction =
        one_of(r, ks_json_get(sampling, "prediction"), predictions, "\"eps\" or \"v\"");
    if (prediction < -1)
        return -1;
    if (prediction >= 0)
        config->prediction = prediction < 2 ? KS_PREDICT_EPS : KS_PREDICT_V;
    if (ks_json_exists(zsnr) && ks_json_bool(zsnr, &config->zsnr, r->err) != 0)
        return -1;
    return read_betas(r, sampling, config);
}

static int read_all(const reader *r, ks_model_config *config)
{
    ks_json arch = ks_json_get(r->root, "arch"), prefix = ks_json_get(r->root, "prefix");
    ks_json scale = ks_json_get(r->root, "latent_scale_factor");
    const char *text;
    if (ks_json_exists(arch)) {
        if (ks_json_string(arch, &text, r->err) != 0)
            return -1;
        snprintf(config->family, sizeof config->family, "%.15s", text);
    }
    if (ks_json_exists(prefix)) {
        if (ks_json_string(prefix, &text, r->err) != 0)
            return -1;
        if (strcmp(text, config->unet.prefix) != 0)
            return ks_json_error(prefix, r->err, "says \"%.80s\", but the tensors of %s say \"%s\"",
                                 text, ks_safetensors_path(r->st), config->unet.prefix);
    }
    if (ks_json_exists(scale)) {
        if (ks_json_double(scale, &config->latent_scale_factor, r->err) != 0)
            return -1;
        if (config->latent_scale_factor <= 0)
            return ks_json_error(scale, r->err, "%g; wanted a number above 0",
                                 config->latent_scale_factor);
    }
    if (read_unet(r, &config->unet) != 0 || read_text(r, &config->text) != 0)
        return -1;
    return read_sampling(r, config);
}

/* Other programs put JSON of their own beside models: a file without any key of ours is not read.
 */
static bool ours(ks_json root)
{
    static const char *const keys[] = {"unet_config", "text_config", "sampling",
                                       "latent_scale_factor"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (ks_json_exists(ks_json_get(root, keys[i])))
            return true;
    return false;
}

int ks_read_model_json(const ks_safetensors *st, ks_model_config *config, ks_error *err)
{
    char *path = ks_path_with_extension(ks_safetensors_path(st), ".json");
    if (access(path, F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR)) {
        free(path);
        return 0;
    }
    ks_json_doc *doc = ks_json_read(path, err);
    free(path);
    if (!doc)
        return -1;
    reader r = {.st = st, .root = ks_json_root(doc), .err = err};
    int status = 0;
    if (ours(r.root)) {
        config->from_json = true;
        status = read_all(&r, config);
    }
    ks_json_free(doc);
    return status;
}
