#include "job/latent.h"

#include <stddef.h>
#include <stdlib.h>

#include "base/file.h"
#include "job/fields.h"
#include "job/region.h"
#include "job/sweep.h"

enum { SMALLEST = 16, LARGEST = 16384, CELL = 8, MOST_LATENTS = 4096 };

static int field_pixels(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    int64_t pixels = 0;
    if (ks_json_int(v, SMALLEST, LARGEST, &pixels, NULL) != 0 || pixels % CELL != 0)
        return ks_misfit(v, err, "pixels, a multiple of 8 from 16 to 16384");
    *(int *)((char *)into + f->at) = (int)pixels;
    return 0;
}

static int field_index(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    if (ks_json_int(v, 0, INT64_C(1) << 53, (int64_t *)((char *)into + f->at), NULL) != 0)
        return ks_misfit(v, err, "the latent's place in the file, a whole number from 0");
    return 0;
}

/* Places in the noise's batch, one for each latent of the batch. */
static int field_batch_index(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    (void)f;
    ks_latent_ref *l = into;
    int n = ks_json_size(v);
    if (!ks_json_is_array(v) || n < 1 || n > MOST_LATENTS)
        return ks_misfit(v, err, "a list of 1 to 4096 whole numbers from 0 to 4095");
    l->batch_index = ks_calloc((size_t)n, sizeof *l->batch_index);
    l->batch_indices = n;
    for (int i = 0; i < n; i++) {
        ks_json item = ks_json_at(v, i);
        if (ks_json_int(item, 0, MOST_LATENTS - 1, &l->batch_index[i], NULL) != 0)
            return ks_misfit(item, err, "a whole number from 0 to 4095");
    }
    return 0;
}

static const ks_field fields[] = {
    {.name = "width", .read = field_pixels, .at = offsetof(ks_latent_ref, width)},
    {.name = "height", .read = field_pixels, .at = offsetof(ks_latent_ref, height)},
    {.name = "file", .read = ks_field_path, .at = offsetof(ks_latent_ref, file), .low = 1,
     .wanted = "the path of a .latent or HDF5 file"},
    {.name = "dataset", .read = ks_field_text, .at = offsetof(ks_latent_ref, dataset), .low = 1,
     .wanted = "the name of a data set in the HDF5 file"},
    {.name = "index", .read = field_index, .at = offsetof(ks_latent_ref, index)},
    {.name = "batch_size", .read = ks_field_int, .at = offsetof(ks_latent_ref, batch_size),
     .low = 1, .high = MOST_LATENTS},
    {.name = "batch_index", .read = field_batch_index},
    {.name = "noise_mask", .read = ks_field_mask_file, .at = offsetof(ks_latent_ref, noise_mask)},
    {.name = NULL}};

/* Latents of one call as far as the job file tells; 0: the latent's file has to say. */
static int known_batch(const ks_latent_ref *l)
{
    if (l->batch_size)
        return l->batch_size;
    if (!l->file || l->index >= 0)
        return 1;
    return l->batch_indices;
}

/* Refuses keys that do not go together. */
static int check(const ks_latent_ref *l, ks_json v, ks_error *err)
{
    if (l->file && (l->width || l->height))
        return ks_json_error(v, err, "has a size beside \"file\", which has its own; remove "
                             "\"width\" and \"height\"");
    if (!l->file && (l->dataset || l->index >= 0))
        return ks_json_error(v, err, "has \"%s\" without a file; give \"file\" or remove it",
                             l->dataset ? "dataset" : "index");
    if (!l->file && !(l->width && l->height))
        return ks_json_error(v, err, "has no size; give \"width\" and \"height\" in pixels, or "
                             "\"file\"");
    int batch = known_batch(l);
    if (l->batch_index && l->batch_indices != batch)
        return ks_json_error(ks_json_get(v, "batch_index"), err,
                             "is a list of %d for a batch of %d; give one place for each latent",
                             l->batch_indices, batch);
    return 0;
}

int ks_item_latent(const ks_field *f, void *value, ks_json v, ks_error *err)
{
    (void)f;
    ks_latent_ref *l = value;
    l->index = -1;
    if (!ks_json_is_object(v))
        return ks_misfit(v, err, "{\"width\": 512, \"height\": 512} in pixels, {\"file\": "
                         "\"x.latent\"}, or a list of them");
    if (ks_fields_read(v, KS_PART_LATENT, fields, l, err) != 0 || check(l, v, err) != 0)
        return -1;
    l->label = ks_json_print(v);
    return l->label ? 0 : ks_json_error(v, err, "no memory for its name");
}

/* The axis' value number i, for messages; the axis itself when it is no list. */
static ks_json value_at(ks_json v, int i)
{
    return ks_json_is_array(v) ? ks_json_at(v, i) : v;
}

int ks_latents_check(ks_job *job, ks_json v, ks_error *err)
{
    const ks_latent_ref *size = NULL;
    int batch = 0;
    for (int i = 0; i < job->latents; i++) {
        const ks_latent_ref *l = &job->latent[i];
        int own = known_batch(l);
        if (!l->file && size && (size->width != l->width || size->height != l->height))
            return ks_json_error(value_at(v, i), err, "has %d x %d pixels and another value has "
                                 "%d x %d; give all the same size: one job has one latent shape",
                                 l->width, l->height, size->width, size->height);
        if (own && batch && own != batch)
            return ks_json_error(value_at(v, i), err, "is a batch of %d and another value one of "
                                 "%d; give all the same: one job has one latent shape", own, batch);
        size = l->file ? size : l;
        batch = own ? own : batch;
    }
    job->batch = batch ? batch : 1;
    return 0;
}

int ks_job_set_batch(ks_job *job, int batch, ks_error *err)
{
    for (int i = 0; i < job->latents; i++) {
        int own = known_batch(&job->latent[i]);
        if (own && own != batch)
            return ks_error_set(err, "%s: latent_image: a file gives a batch of %d where the job "
                                "says %d; change \"batch_size\", \"batch_index\" or \"index\"",
                                job->path, batch, own);
    }
    int before = job->batch;
    job->batch = batch;
    if (ks_sweep_check(job, err) == 0)
        return 0;
    job->batch = before;
    return -1;
}

void ks_latents_free(ks_latent_ref *values, int count)
{
    for (int i = 0; values && i < count; i++) {
        free(values[i].file);
        free(values[i].dataset);
        free(values[i].batch_index);
        ks_mask_ref_clear(&values[i].noise_mask);
        free(values[i].label);
    }
    free(values);
}
