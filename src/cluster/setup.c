#include "cluster/setup.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/units.h"
#include "cluster/renderer.h"
#include "model/model.h"
#include "model/split.h"
#include "model/tokenizer.h"

enum { CELL = 8, CPU_ROWS = 8, GPU_ROWS = 16, ROWS_AT_MOST = 64, USUAL_TOKENS = 77 };

/* What the libraries and the estimate's roughness leave of the memory for rows. */
static const double SHARE_OF_MEMORY = 0.7;

static bool uses_text(const ks_conditioning *values, int count)
{
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < values[i].count; k++) {
            if (values[i].item[k].text)
                return true;
        }
    }
    return false;
}

/* "auto" gives way to what the model file says, so that keys tell what was really used. */
static void resolve_prediction(ks_job *job, ks_model_config *config)
{
    if (!strcmp(job->prediction, "auto"))
        strcpy(job->prediction, config->prediction == KS_PREDICT_V ? "v" : "eps");
    config->prediction = strcmp(job->prediction, "v") ? KS_PREDICT_EPS : KS_PREDICT_V;
    if (!job->zsnr_given)
        job->zsnr = config->zsnr;
    config->zsnr = job->zsnr;
}

/* What the job asks of the model file beside its UNet. */
static int check_parts(ks_setup *s, ks_error *err)
{
    const ks_job *job = s->job;
    if (ks_unet_split_fits(&s->config.unet, job->tensor, err))
        return ks_error_wrap(err, "%s: parallel.tensor: %s", job->path, job->model);
    s->texts = uses_text(job->positive, job->positives) || uses_text(job->negative, job->negatives);
    if (job->images && !s->config.vae.present)
        return ks_error_set(err, "%s: output.images: %s holds no VAE decoder (first_stage_model.*); set images to false",
                            job->path, job->model);
    if (s->texts && s->config.text.present && !(s->tokenizer = ks_tokenizer_find(job->model, err)))
        return -1;
    return 0;
}

int ks_setup_open(ks_setup *s, ks_job *job, ks_error *err)
{
    ks_map map;
    *s = (ks_setup){.job = job};
    if (ks_map_open(job->model, &map, err))
        return ks_error_wrap(err, "%s: model", job->path);
    return ks_setup_open_mapped(s, job, map, err);
}

int ks_setup_open_mapped(ks_setup *s, ks_job *job, ks_map model, ks_error *err)
{
    *s = (ks_setup){.job = job};
    s->file = ks_safetensors_of_map(job->model, model, err);
    if (!s->file || ks_model_detect(s->file, &s->config, err))
        return ks_error_wrap(err, "%s: model", job->path);
    resolve_prediction(job, &s->config);
    ks_model_sampling_init(&s->sampling, s->config.prediction, s->config.zsnr, s->config.linear_start,
                           s->config.linear_end);
    if (check_parts(s, err))
        return -1;
    s->latents = ks_input_latents_new(job, s->config.unet.in_channels, err);
    if (!s->latents)
        return -1;
    ks_input_latents_shape(s->latents, s->shape);
    s->conditions = ks_conditions_new(&s->config, s->shape);
    return 0;
}

static int add_file(ks_hasher *h, const char *folder, const char *name, ks_error *err)
{
    char *path = ks_format("%s/%s", folder, name);
    ks_map map;
    int rc = ks_map_open(path, &map, err);
    if (!rc) {
        ks_hasher_add(h, map.data, map.size);
        ks_map_close(&map);
    }
    free(path);
    return rc;
}

void ks_setup_hash_ahead(ks_setup *s)
{
    size_t size;
    const void *bytes = ks_safetensors_bytes(s->file, &size);
    s->hashing = ks_hash_ahead_start(bytes, size);
}

static int digest_file(ks_setup *s, ks_error *err)
{
    size_t size;
    const void *bytes = ks_safetensors_bytes(s->file, &size);
    ks_hash_ahead *hashing = s->hashing;
    s->hashing = NULL;
    if (hashing ? ks_hash_ahead_end(hashing, s->sha256, err) : ks_sha256(bytes, size, s->sha256, err))
        return ks_error_wrap(err, "%s", s->job->model);
    return 0;
}

/* Weights (by their digest), what the JSON beside them says, and the tokenizer's files. */
static int digest_parts(ks_setup *s, ks_error *err)
{
    const ks_model_config *c = &s->config;
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, s->sha256);
    ks_hasher_add_u64(h, (uint64_t)c->unet.heads);
    ks_hasher_add_u64(h, (uint64_t)c->unet.head_channels);
    ks_hasher_add_u64(h, (uint64_t)c->text.heads);
    ks_hasher_add_u64(h, c->text.quick_gelu);
    ks_hasher_add_f64(h, c->latent_scale_factor);
    ks_hasher_add_f64(h, c->linear_start);
    ks_hasher_add_f64(h, c->linear_end);
    int rc = 0;
    if (s->tokenizer)
        rc = add_file(h, s->tokenizer, "vocab.json", err) || add_file(h, s->tokenizer, "merges.txt", err) ? -1 : 0;
    s->digests.model = ks_hasher_end(h);
    return rc;
}

int ks_setup_digest_model(ks_setup *s, ks_error *err)
{
    return digest_file(s, err) ? -1 : digest_parts(s, err);
}

int ks_setup_believe_model(ks_setup *s, const char *sha256, ks_error *err)
{
    snprintf(s->sha256, sizeof s->sha256, "%s", sha256);
    return digest_parts(s, err);
}

static int digest_side(ks_setup *s, const char *axis, const ks_conditioning *values, int count, ks_hash128 *out,
                       ks_error *err)
{
    for (int i = 0; i < count; i++) {
        if (ks_conditions_digest(s->conditions, &values[i], &out[i], err))
            return ks_error_wrap(err, "%s: %s[%d]", s->job->path, axis, i);
    }
    return 0;
}

static void digest_memory(ks_setup *s)
{
    const ks_job *job = s->job;
    size_t count = (size_t)job->positives + (size_t)job->negatives + (size_t)job->latents;
    s->digest_memory = ks_calloc(count, sizeof *s->digest_memory);
    s->digests.positive = s->digest_memory;
    s->digests.negative = s->digest_memory + job->positives;
    s->digests.latent = s->digest_memory + job->positives + job->negatives;
}

int ks_setup_check(ks_setup *s, ks_error *err)
{
    const ks_job *job = s->job;
    digest_memory(s);
    ks_hash128 *out = s->digest_memory;
    if (digest_side(s, "positive", job->positive, job->positives, out, err) ||
        digest_side(s, "negative", job->negative, job->negatives, out + job->positives, err))
        return -1;
    for (int i = 0; i < job->latents; i++) {
        if (ks_input_latents_digest(s->latents, i, out + job->positives + job->negatives + i, err))
            return ks_error_wrap(err, "%s", job->path);
    }
    return 0;
}

int ks_setup_digest(ks_setup *s, ks_error *err)
{
    return ks_setup_check(s, err) || ks_setup_digest_model(s, err) ? -1 : 0;
}

int ks_setup_share(ks_setup *s, ks_comm *comm, ks_error *err)
{
    const ks_job *job = s->job;
    if (!s->digest_memory)
        digest_memory(s);
    uint64_t count = (uint64_t)job->positives + (uint64_t)job->negatives + (uint64_t)job->latents;
    return ks_comm_broadcast(comm, s->digest_memory, count * sizeof *s->digest_memory, 0, err) ||
                   ks_comm_broadcast(comm, &s->digests.model, sizeof s->digests.model, 0, err) ||
                   ks_comm_broadcast(comm, s->sha256, sizeof s->sha256, 0, err)
               ? -1
               : 0;
}

void ks_setup_close_model(ks_setup *s)
{
    ks_safetensors_close(s->file);
    s->file = NULL;
}

void ks_setup_close(ks_setup *s)
{
    ks_hash_ahead_drop(s->hashing);
    ks_conditions_free(s->conditions);
    ks_input_latents_free(s->latents);
    ks_safetensors_close(s->file);
    free(s->digest_memory);
    free(s->tokenizer);
    ks_job_free(s->job);
    *s = (ks_setup){0};
}

/* The most conditionings of a value, or those with an area: each of them asks for a row on the other
 * side too. */
static int most_items(const ks_conditioning *values, int count, bool areas)
{
    int most = 0;
    for (int i = 0; i < count; i++) {
        int items = areas ? ks_conditions_areas(&values[i]) : values[i].count;
        most = items > most ? items : most;
    }
    return most;
}

int ks_setup_rows_per_call(const ks_setup *s)
{
    const ks_job *job = s->job;
    bool guided = false;
    for (int i = 0; i < job->cfgs; i++)
        guided |= fabs(job->cfg[i] - 1.0) > 1e-9;
    int items = most_items(job->positive, job->positives, false) +
                most_items(job->negative, job->negatives, true);
    if (guided)
        items += most_items(job->negative, job->negatives, false) +
                 most_items(job->positive, job->positives, true);
    return items * s->shape[0];
}

static int element_bytes(const ks_ops *ops)
{
    return strcmp(ops->precision, "fp32") ? 2 : 4;
}

/* Parameters of the file whose names begin with a prefix. */
static double parameters_under(const ks_safetensors *file, const char *prefix)
{
    double sum = 0;
    for (int i = 0; i < ks_safetensors_count(file); i++) {
        const char *name = ks_safetensors_name(file, i);
        ks_view view;
        if (!strncmp(name, prefix, strlen(prefix)) && ks_safetensors_find(file, name, &view) == 1)
            sum += (double)ks_view_elements(&view);
    }
    return sum;
}

/* Tensors of a latent's size that a lane may hold for each of its rows: the sampler's, x, what the network sees and its output. */
enum { LANE_TENSORS = 12 };

/* Of a rank's part of the network and of the rows. */
static double row_bytes(const ks_setup *s, int element, int tokens)
{
    const ks_job *job = s->job;
    const ks_unet_config *unet = &s->config.unet;
    int height = s->shape[2], width = s->shape[3];
    double row = ks_unet_activation_bytes(unet, job->tensor, height, width, element) +
                 2 * ks_unet_conditioning_bytes(unet, job->tensor, tokens, element);
    double latents = sizeof(float) * (double)(unet->in_channels + unet->out_channels) * height * width;
    return row / job->rows + (job->tensor * job->rows > 1 ? latents : 0);
}

ks_memory_need ks_setup_memory(const ks_setup *s, const ks_ops *ops)
{
    const ks_model_config *c = &s->config;
    int element = element_bytes(ops), height = s->shape[2], width = s->shape[3];
    int tokens = c->text.present ? c->text.tokens : USUAL_TOKENS;
    double parameters = (double)c->parameters * ks_unet_weight_share(&c->unet, s->job->tensor);
    ks_memory_need need = {.follower_weights = element * parameters, .follower_row = row_bytes(s, element, tokens)};
    if (s->texts)
        parameters += parameters_under(s->file, c->text.prefix);
    if (s->job->images) {
        parameters += parameters_under(s->file, c->vae.prefix);
        need.decoding = ks_decode_bytes(&c->vae, height, width, element);
    }
    need.weights = element * parameters;
    need.fixed = need.weights + need.decoding + KS_SHARE_BYTES;
    need.row = need.follower_row + LANE_TENSORS * sizeof(float) * (double)s->shape[1] * height * width;
    return need;
}

/* Not even one row fits, or not those that were asked for. */
static int refuse_memory(const ks_setup *s, const ks_ops *ops, ks_memory_need need, int rows, double memory, ks_error *err)
{
    bool gpu = strcmp(ops->name, "cpu") != 0;
    char weights[32], decoding[32], row[32], all[32], left[32];
    ks_size_text(need.weights, weights, sizeof weights);
    ks_size_text(need.decoding, decoding, sizeof decoding);
    ks_size_text(need.row, row, sizeof row);
    ks_size_text(need.fixed + rows * need.row, all, sizeof all);
    ks_size_text(memory, left, sizeof left);
    return ks_error_set(err, "%s: network calls of %d row%s of %d x %d pixels need about %s of memory in %s (weights %s, decoding %s, "
                        "a row %s), and %s are free for a rank on %s: use %s, or %s", s->job->path, rows, rows > 1 ? "s" : "",
                        CELL * s->shape[3], CELL * s->shape[2], all, ops->precision, weights, decoding, row, left, ops->device,
                        rows > 1 ? "fewer parallel.batch_rows" : "a smaller picture", gpu ? "a larger GPU" : "fewer ranks");
}

int ks_setup_choose_rows(const ks_setup *s, ks_ops *ops, int ranks, bool loaded, int *rows, ks_error *err)
{
    bool gpu = strcmp(ops->name, "cpu") != 0;
    int least = gpu ? GPU_ROWS : CPU_ROWS;
    double calls = (double)ks_job_samples(s->job) / s->shape[0];
    int parts = s->job->rows;
    double wanted = fmin(ops->threads > least ? ops->threads : least, ROWS_AT_MOST) * parts;
    double useful = calls * ks_setup_rows_per_call(s);
    ks_memory_need need = ks_setup_memory(s, ops);
    double memory = (double)ops->memory_free(ops) / ranks + (loaded ? need.weights : 0);
    double fitting = floor((memory - need.fixed) / need.row / parts) * parts;
    if (fitting < fmax(*rows, parts))
        return refuse_memory(s, ops, need, *rows ? *rows : parts, memory, err);
    if (!*rows)
        *rows = parts * (int)ceil(floor(fmax(1, fmin(fmin(wanted, useful), SHARE_OF_MEMORY * fitting))) / parts);
    return 0;
}
