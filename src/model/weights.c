/* Parameters from a file, by name. */
#include "model/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/stop.h"

ks_name ks_join(const char *base, const char *format, ...)
{
    ks_name name;
    int n = snprintf(name.text, sizeof name.text, "%s", base);
    if (n < 0 || n >= (int)sizeof name.text)
        return name;
    va_list args;
    va_start(args, format);
    vsnprintf(name.text + n, sizeof name.text - (size_t)n, format, args);
    va_end(args);
    return name;
}

void *ks_loader_alloc(ks_loader *l, size_t count, size_t size)
{
    if (l->failed)
        return NULL;
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        l->failed = true;
        ks_error_set(l->err, "%s: no memory for the model's description",
                     ks_safetensors_path(l->st));
    }
    return memory;
}

/* Keeps a parameter for ks_weight_list_free; a NULL from the backend is the loader's failure (err
 * is set). */
static ks_weight *keep(ks_loader *l, const char *name, ks_weight *w)
{
    if (!w) {
        ks_error_wrap(l->err, "%s: tensor %s", ks_safetensors_path(l->st), name);
        l->failed = true;
        return NULL;
    }
    ks_weight_list *list = l->list;
    if (list->count == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 256;
        ks_weight **item = realloc(list->item, (size_t)capacity * sizeof(ks_weight *));
        if (!item) {
            l->ops->weight_free(l->ops, w);
            ks_error_set(l->err, "%s: no memory for the list of tensors",
                         ks_safetensors_path(l->st));
            l->failed = true;
            return NULL;
        }
        list->item = item;
        list->capacity = capacity;
    }
    list->item[list->count++] = w;
    return w;
}

static void print_shape(char *text, size_t size, int rank, const int64_t *shape)
{
    int n = snprintf(text, size, "[");
    for (int i = 0; i < rank && n >= 0 && (size_t)n < size; i++)
        n += snprintf(text + n, size - (size_t)n, "%s%lld", i ? ", " : "", (long long)shape[i]);
    if (n >= 0 && (size_t)n < size)
        snprintf(text + n, size - (size_t)n, "]");
}

/* The tensor's view, if it has exactly this shape. */
static bool get(ks_loader *l, const char *name, int rank, const int64_t *shape, ks_view *view)
{
    if (l->failed)
        return false;
    if (ks_stop_check("reading the model", l->err) || ks_safetensors_get(l->st, name, view, l->err) != 0) {
        l->failed = true;
        return false;
    }
    bool same = view->rank == rank;
    for (int i = 0; same && i < rank; i++)
        same = view->shape[i] == shape[i];
    if (!same) {
        char is[96], must[96];
        print_shape(is, sizeof is, view->rank, view->shape);
        print_shape(must, sizeof must, rank, shape);
        ks_error_set(l->err, "%s: tensor %s has shape %s where the network needs %s",
                     ks_safetensors_path(l->st), name, is, must);
        l->failed = true;
    }
    return same;
}

/* A matrix [out, in]; a 1x1 convolution's is read as one. */
static bool get_matrix(ks_loader *l, const char *name, int in, int out, ks_view *view)
{
    if (l->failed)
        return false;
    const int64_t shape[4] = {out, in, 1, 1};
    bool convolution = ks_safetensors_find(l->st, name, view) == 1 && view->rank == 4;
    if (!get(l, name, convolution ? 4 : 2, shape, view))
        return false;
    view->rank = 2;
    return true;
}

/* Memory for one share of a tensor's inputs, kept for the next one. */
static void *slice_memory(ks_loader *l, size_t bytes)
{
    if (bytes <= l->slice_bytes)
        return l->slice;
    free(l->slice);
    l->slice = malloc(bytes);
    l->slice_bytes = l->slice ? bytes : 0;
    if (!l->slice) {
        l->failed = true;
        ks_error_set(l->err, "%s: no memory for a part of a tensor of %.1f MiB",
                     ks_safetensors_path(l->st), (double)bytes / (1 << 20));
    }
    return l->slice;
}

/* The loader's part of a weight, in the place of the whole. Of inputs: one weight at a time. */
static void take_share(ks_loader *l, ks_share share, ks_view *w)
{
    if (l->failed || l->split.parts == 1 || share == KS_SHARE_NONE)
        return;
    if (share == KS_SHARE_OUTPUTS) {
        *w = ks_split_rows(l->split, w);
        return;
    }
    size_t bytes = (size_t)ks_view_elements(w) * ks_dtype_size(w->dtype) / (size_t)l->split.parts;
    void *memory = slice_memory(l, bytes);
    if (memory)
        *w = ks_split_columns(l->split, w, memory);
}

/* <module>.bias [out], or the share of it; of inputs, absent (false) but at the first part. */
static bool get_bias(ks_loader *l, ks_share share, const char *module, int out, ks_view *view)
{
    const int64_t shape = out;
    if (!get(l, ks_join(module, ".bias").text, 1, &shape, view))
        return false;
    if (share == KS_SHARE_OUTPUTS)
        take_share(l, share, view);
    return share != KS_SHARE_INPUTS || l->split.part == 0;
}

static ks_weight *load_matrices(ks_loader *l, ks_share share, int parts, const ks_name *modules,
                                int in, const int *out, bool bias)
{
    ks_view *view = ks_loader_alloc(l, 2 * (size_t)parts, sizeof *view);
    if (!view)
        return NULL;
    ks_weight *w = NULL;
    bool biased = bias;
    for (int i = 0; i < parts; i++) {
        get_matrix(l, ks_join(modules[i].text, ".weight").text, in, out[i], &view[i]);
        take_share(l, share, &view[i]);
        if (bias)
            biased = get_bias(l, share, modules[i].text, out[i], &view[parts + i]);
    }
    if (!l->failed)
        w = keep(l, modules[0].text, l->ops->weight(l->ops, KS_USE_LINEAR, parts, view,
                                                    biased ? view + parts : NULL, l->err));
    free(view);
    return w;
}

ks_weight *ks_load_fused(ks_loader *l, int parts, const ks_name *modules, int in, const int *out,
                         bool bias)
{
    return load_matrices(l, KS_SHARE_OUTPUTS, parts, modules, in, out, bias);
}

ks_weight *ks_load_linear_share(ks_loader *l, ks_share share, const char *module, int in, int out,
                                bool bias)
{
    ks_name name = ks_join(module, "%s", "");
    return load_matrices(l, share, 1, &name, in, &out, bias);
}

ks_weight *ks_load_linear(ks_loader *l, const char *module, int in, int out, bool bias)
{
    return ks_load_linear_share(l, KS_SHARE_NONE, module, in, out, bias);
}

ks_weight *ks_load_geglu(ks_loader *l, const char *module, int in, int out)
{
    const int64_t shape = 2 * (int64_t)out;
    ks_view whole, whole_bias, w[2], bias[2];
    if (!get_matrix(l, ks_join(module, ".weight").text, in, 2 * out, &whole) ||
        !get(l, ks_join(module, ".bias").text, 1, &shape, &whole_bias))
        return NULL;
    for (int i = 0; i < 2; i++) {
        const ks_split half = {i, 2}; /* values, gates */
        w[i] = ks_split_rows(half, &whole);
        bias[i] = ks_split_rows(half, &whole_bias);
        take_share(l, KS_SHARE_OUTPUTS, &w[i]);
        take_share(l, KS_SHARE_OUTPUTS, &bias[i]);
    }
    return keep(l, module, l->ops->weight(l->ops, KS_USE_GEGLU, 2, w, bias, l->err));
}

static ks_weight *load_conv(ks_loader *l, ks_weight_use use, ks_share share, const char *module,
                            int in, int out, int k)
{
    ks_view w, bias;
    const int64_t shape[4] = {out, in, k, k};
    if (!get(l, ks_join(module, ".weight").text, 4, shape, &w))
        return NULL;
    bool biased = get_bias(l, share, module, out, &bias);
    take_share(l, share, &w);
    if (l->failed)
        return NULL;
    return keep(l, module,
                l->ops->weight(l->ops, use, 1, &w, biased ? &bias : NULL, l->err));
}

ks_weight *ks_load_conv_share(ks_loader *l, ks_share share, const char *module, int in, int out,
                              int k)
{
    return load_conv(l, KS_USE_CONV, share, module, in, out, k);
}

ks_weight *ks_load_conv(ks_loader *l, const char *module, int in, int out, int k)
{
    return ks_load_conv_share(l, KS_SHARE_NONE, module, in, out, k);
}

ks_weight *ks_load_upsample(ks_loader *l, const char *module, int channels)
{
    return load_conv(l, KS_USE_UPSAMPLE, KS_SHARE_NONE, module, channels, channels, 3);
}

ks_weight *ks_load_norm_share(ks_loader *l, ks_share share, const char *module, int c)
{
    ks_view gamma, beta;
    const int64_t shape = c;
    if (!get(l, ks_join(module, ".weight").text, 1, &shape, &gamma) ||
        !get(l, ks_join(module, ".bias").text, 1, &shape, &beta))
        return NULL;
    take_share(l, share, &gamma);
    take_share(l, share, &beta);
    return keep(l, module, l->ops->norm_weight(l->ops, &gamma, &beta, l->err));
}

ks_weight *ks_load_norm(ks_loader *l, const char *module, int c)
{
    return ks_load_norm_share(l, KS_SHARE_NONE, module, c);
}

ks_weight *ks_load_table(ks_loader *l, const char *name, int count, int c)
{
    ks_view view;
    const int64_t shape[2] = {count, c};
    if (!get(l, name, 2, shape, &view))
        return NULL;
    return keep(l, name, l->ops->table(l->ops, &view, l->err));
}

void ks_loader_end(ks_loader *l)
{
    free(l->slice);
    l->slice = NULL;
    l->slice_bytes = 0;
}

void ks_weight_list_free(ks_weight_list *list, ks_ops *ops)
{
    for (int i = 0; i < list->count; i++)
        ops->weight_free(ops, list->item[i]);
    free(list->item);
    *list = (ks_weight_list){0};
}
