#include "cluster/latents.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cluster/masks.h"
#include "store/latent_file.h"

struct ks_input_latents {
    const ks_job *job;
    int shape[4];
    float *values; /* of the value `held` */
    int held;
    ks_masks *masks;
};

enum { CELL = 8 }; /* pixels of a latent's cell */

/* The shape that one value of the axis has; *values is set to what its file holds, or NULL. */
static int read_value(const ks_latent_ref *ref, int channels, int shape[4], float **values,
                      ks_error *err)
{
    *values = NULL;
    if (!ref->file) {
        const int empty[4] = {ref->batch_size ? ref->batch_size : 1, channels, ref->height / CELL,
                              ref->width / CELL};
        memcpy(shape, empty, sizeof empty);
        return 0;
    }
    if (ks_latent_read(ref->file, ref->dataset, ref->index, values, shape, err))
        return -1;
    if (shape[1] == channels)
        return 0;
    free(*values);
    *values = NULL;
    return ks_error_set(err, "%s: the latent has %d channels; the model works on %d", ref->file,
                        shape[1], channels);
}

/* A latent of one item may be asked for several times over (ComfyUI's RepeatLatentBatch). */
static int repeat_value(const ks_latent_ref *ref, int shape[4], float **values, ks_error *err)
{
    int wanted = ref->batch_size;
    if (!wanted || wanted == shape[0])
        return 0;
    if (shape[0] != 1)
        return ks_error_set(err,
                            "%d latents are asked for and %s holds a batch of %d: leave "
                            "batch_size out, or name a latent of batch 1",
                            wanted, ref->file, shape[0]);
    size_t item = (size_t)shape[1] * (size_t)shape[2] * (size_t)shape[3];
    float *all = ks_calloc(item * (size_t)wanted, sizeof *all);
    for (int i = 0; i < wanted; i++)
        memcpy(all + item * (size_t)i, *values, item * sizeof *all);
    free(*values);
    *values = all;
    shape[0] = wanted;
    return 0;
}

/* What one value of the axis gives; errors name its place in the job. */
static int load(const ks_job *job, int value, int channels, int shape[4], float **values, ks_error *err)
{
    const ks_latent_ref *ref = &job->latent[value];
    if (read_value(ref, channels, shape, values, err))
        return ks_error_wrap(err, "latent_image[%d].file", value);
    if (repeat_value(ref, shape, values, err)) {
        free(*values);
        *values = NULL;
        return ks_error_wrap(err, "latent_image[%d].batch_size", value);
    }
    return 0;
}

static int check_shape(const ks_input_latents *l, int value, const int shape[4], ks_error *err)
{
    const ks_latent_ref *ref = &l->job->latent[value];
    if (memcmp(shape, l->shape, sizeof l->shape))
        return ks_error_set(err,
                            "latent_image[%d] is [%d, %d, %d, %d] and latent_image[0] is [%d, %d, "
                            "%d, %d]: one job has "
                            "one latent shape",
                            value, shape[0], shape[1], shape[2], shape[3], l->shape[0], l->shape[1],
                            l->shape[2], l->shape[3]);
    if (ref->batch_index && ref->batch_indices != shape[0])
        return ks_error_set(
            err, "latent_image[%d].batch_index has %d entries for a batch of %d: one for each",
            value, ref->batch_indices, shape[0]);
    return 0;
}

ks_input_latents *ks_input_latents_new(ks_job *job, int channels, ks_error *err)
{
    ks_input_latents *l = ks_calloc(1, sizeof *l);
    l->job = job;
    l->held = -1;
    for (int i = 0; i < job->latents; i++) {
        int shape[4];
        float *values;
        if (load(job, i, channels, shape, &values, err))
            goto failed;
        free(values);
        if (i == 0)
            memcpy(l->shape, shape, sizeof shape);
        if (check_shape(l, i, shape, err))
            goto failed;
    }
    l->masks = ks_masks_new(l->shape[0], l->shape[2], l->shape[3]);
    if (!ks_job_set_batch(job, l->shape[0], err))
        return l;
failed:
    ks_error_wrap(err, "%s", job->path);
    ks_input_latents_free(l);
    return NULL;
}

void ks_input_latents_free(ks_input_latents *l)
{
    if (!l)
        return;
    ks_masks_free(l->masks);
    free(l->values);
    free(l);
}

void ks_input_latents_shape(const ks_input_latents *l, int shape[4])
{
    memcpy(shape, l->shape, sizeof l->shape);
}

int ks_input_latents_get(ks_input_latents *l, int value, const float **values, ks_error *err)
{
    const ks_latent_ref *ref = &l->job->latent[value];
    *values = NULL;
    if (!ref->file)
        return 0;
    if (l->held != value) {
        int shape[4];
        free(l->values);
        l->values = NULL;
        l->held = -1;
        if (load(l->job, value, l->shape[1], shape, &l->values, err) || check_shape(l, value, shape, err))
            return -1;
        l->held = value;
    }
    *values = l->values;
    return 0;
}

int ks_input_latents_mask(ks_input_latents *l, int value, const float **mask, int *masks,
                          ks_error *err)
{
    const ks_latent_ref *ref = &l->job->latent[value];
    ks_mask found = {0};
    if (ref->noise_mask.file && ks_masks_take(l->masks, &ref->noise_mask, &found, err))
        return ks_error_wrap(err, "latent_image[%d].noise_mask", value);
    *mask = found.values;
    *masks = found.count;
    if (found.values)
        ks_masks_give(l->masks, found.values);
    return 0;
}

int ks_input_latents_digest(ks_input_latents *l, int value, ks_hash128 *digest, ks_error *err)
{
    const ks_latent_ref *ref = &l->job->latent[value];
    const float *values, *mask = NULL;
    int masks = 0;
    if (ks_input_latents_get(l, value, &values, err) ||
        ks_input_latents_mask(l, value, &mask, &masks, err))
        return -1;
    size_t count = 1, cells = (size_t)l->shape[2] * (size_t)l->shape[3];
    ks_hasher *h = ks_hasher_new();
    for (int i = 0; i < 4; i++) {
        ks_hasher_add_u64(h, (uint64_t)l->shape[i]);
        count *= (size_t)l->shape[i];
    }
    ks_hasher_add(h, values, values ? count * sizeof *values : 0);
    ks_hasher_add(h, ref->batch_index,
                  ref->batch_index ? (size_t)ref->batch_indices * sizeof *ref->batch_index : 0);
    if (mask) {
        ks_hasher_add_text(h, "noise mask");
        ks_hasher_add(h, mask, (size_t)masks * cells * sizeof *mask);
    }
    *digest = ks_hasher_end(h);
    return 0;
}
