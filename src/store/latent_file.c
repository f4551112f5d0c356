#include "store/latent_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/values.h"
#include "model/safetensors.h"
#include "store/h5.h"

enum { MOST = 1 << 28 }; /* values: a batch of 4096 latents of 1024 x 1024 pixels in 4 channels */

/* What ComfyUI's LoadLatent multiplies latents of the format's first version by. */
static const float OLD_FORMAT_SCALE = (float)(1.0 / 0.18215);

/* Sizes of 3 or 4 axes as [B, C, H, W]; refuses what is none. */
static int set_shape(const char *path, const char *name, int rank, const int64_t *size,
                     int shape[4], ks_error *err)
{
    int64_t total = 1;
    if (rank != 3 && rank != 4)
        return ks_error_set(err, "%s: %s has %d axes: a latent is [B, C, H, W] or [C, H, W]", path,
                            name, rank);
    shape[0] = 1;
    for (int i = 0; i < rank; i++) {
        if (size[i] < 1 || size[i] > MOST || (total *= size[i]) > MOST)
            return ks_error_set(err, "%s: %s has a size that no latent has (axis %d is %lld)", path,
                                name, i, (long long)size[i]);
        shape[i + 4 - rank] = (int)size[i];
    }
    return 0;
}

static size_t elements(const int shape[4])
{
    return (size_t)shape[0] * (size_t)shape[1] * (size_t)shape[2] * (size_t)shape[3];
}

static float *new_values(const char *path, const int shape[4], ks_error *err)
{
    float *values = malloc(elements(shape) * sizeof *values);
    if (!values)
        ks_error_set(err, "%s: no memory for latents of [%d, %d, %d, %d]", path, shape[0], shape[1], shape[2], shape[3]);
    return values;
}

/* The values of one item of a batch in place of all of them. */
static int keep_item(const char *path, int64_t index, float *values, int shape[4], ks_error *err)
{
    if (index >= shape[0])
        return ks_error_set(err, "%s: there is no item %lld: its batch has %d, counted from 0",
                            path, (long long)index, shape[0]);
    shape[0] = 1;
    memmove(values, values + elements(shape) * (size_t)index, elements(shape) * sizeof *values);
    return 0;
}

static int read_safetensors(const char *path, const char *name, int64_t index, float **values,
                            int shape[4], ks_error *err)
{
    ks_view view, marker;
    int status = -1;
    ks_safetensors *st = ks_safetensors_open(path, err);
    if (!st)
        return -1;
    if (ks_safetensors_get(st, name, &view, err) ||
        set_shape(path, name, view.rank, view.shape, shape, err))
        goto cleanup;
    size_t count = elements(shape);
    if (!(*values = new_values(path, shape, err)))
        goto cleanup;
    if (ks_view_floats(&view, *values, err)) {
        ks_error_wrap(err, "%s: %s", path, name);
        goto cleanup;
    }
    if (!ks_safetensors_find(st, "latent_format_version_0", &marker))
        for (size_t i = 0; i < count; i++)
            (*values)[i] *= OLD_FORMAT_SCALE;
    status = index < 0 ? 0 : keep_item(path, index, *values, shape, err);
cleanup:
    ks_safetensors_close(st);
    return status;
}

static const char *noun_of(H5T_class_t class)
{
    switch (class) {
    case H5T_FLOAT:
        return "real numbers";
    case H5T_INTEGER:
        return "whole numbers";
    case H5T_STRING:
        return "texts";
    case H5T_COMPOUND:
        return "records";
    default:
        return "values of another kind";
    }
}

/* Type and sizes of an open data set. */
static int look_at(hid_t set, const char *path, const char *name, int *rank, int64_t size[8],
                   ks_error *err)
{
    hsize_t held[8] = {0};
    hid_t space = H5Dget_space(set), type = H5Dget_type(set);
    *rank = H5Sget_simple_extent_ndims(space);
    int status = 0;
    if (H5Tget_class(type) != H5T_FLOAT || *rank < 1 || *rank > 8 ||
        H5Sget_simple_extent_dims(space, held, NULL) < 0)
        status = ks_error_set(err, "%s: /%s holds %s on %d axes; give a data set of real numbers, [N, C, H, W], such as /latents",
                              path, name, noun_of(H5Tget_class(type)), *rank);
    for (int i = 0; i < 8; i++)
        size[i] = held[i] > INT64_MAX ? INT64_MAX : (int64_t)held[i];
    H5Eclear2(H5E_DEFAULT);
    ks_h5_close(&type);
    ks_h5_close(&space);
    return status;
}

static int read_hdf5(const char *path, const char *name, int64_t index, float **values,
                     int shape[4], ks_error *err)
{
    int rank, status = -1;
    int64_t size[8];
    hid_t set = -1, file = ks_h5_open(path, NULL, err);
    if (file < 0)
        return -1;
    if ((set = ks_h5_open_set(file, path, name, err)) < 0 ||
        look_at(set, path, name, &rank, size, err))
        goto cleanup;
    if (index >= size[0]) {
        ks_error_set(err, "%s: /%s has no item %lld: it has %lld, counted from 0", path, name,
                     (long long)index, (long long)size[0]);
        goto cleanup;
    }
    bool item = index >= 0;
    if (set_shape(path, name, rank - item, size + item, shape, err))
        goto cleanup;
    uint64_t items = item ? 1 : (uint64_t)size[0];
    if (ks_h5_check_claim(set, path, name, elements(shape), err) || !(*values = new_values(path, shape, err)))
        goto cleanup;
    status = ks_h5_read_items(set, path, H5T_NATIVE_FLOAT, item ? (uint64_t)index : 0, items, *values,
                              elements(shape) / items * sizeof **values, err);
cleanup:
    ks_h5_close(&set);
    H5Fclose(file);
    return status;
}

int ks_latent_read(const char *path, const char *dataset, int64_t index, float **values,
                   int shape[4], ks_error *err)
{
    *values = NULL;
    bool hdf5 = ks_h5_is(path);
    const char *tensor = dataset ? dataset : hdf5 ? "latents" : "latent_tensor";
    int status = hdf5 ? read_hdf5(path, tensor, index, values, shape, err)
                      : read_safetensors(path, tensor, index, values, shape, err);
    if (status == 0 && ks_values_finite(*values, elements(shape), err))
        status = ks_error_wrap(err, "%s: %s%s", path, hdf5 ? "/" : "", tensor);
    if (status) {
        free(*values);
        *values = NULL;
    }
    return status;
}
