#include "cluster/conditions.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* Unused conditionings beyond this many are dropped, the longest unused first. */
enum { KEPT = 512, BUCKETS = 1024, OPEN_FILES = 8 };

typedef struct entry {
    ks_hash128 key; /* of the reference: where the content comes from */
    ks_hash128 id;  /* of the content */
    ks_cond *cond;
    int pins;
    uint64_t used;
    struct entry *next;
} entry;

typedef struct open_file {
    ks_safetensors *st;
    char *path;
    uint64_t used;
} open_file;

struct ks_conditions {
    const ks_model_config *config;
    int height, width;
    entry *bucket[BUCKETS];
    int entries;
    uint64_t clock;
    open_file file[OPEN_FILES];
};

/* What a cond is made from. */
typedef struct content {
    float *context;
    int tokens;
    float *y; /* [adm_channels] or NULL */
    ks_hash128 id;
} content;

static void content_clear(content *c)
{
    free(c->context);
    free(c->y);
}

ks_conditions *ks_conditions_new(const ks_model_config *config, int height, int width)
{
    ks_conditions *c = ks_calloc(1, sizeof *c);
    c->config = config;
    c->height = height;
    c->width = width;
    return c;
}

static void entry_free(entry *e)
{
    ks_cond_free(e->cond);
    free(e);
}

void ks_conditions_free(ks_conditions *c)
{
    if (!c)
        return;
    for (int b = 0; b < BUCKETS; b++) {
        for (entry *e = c->bucket[b], *next; e; e = next) {
            next = e->next;
            entry_free(e);
        }
    }
    for (int i = 0; i < OPEN_FILES; i++) {
        ks_safetensors_close(c->file[i].st);
        free(c->file[i].path);
    }
    free(c);
}

/* The open file of this path: from the few that are kept open, or opened in the place of the longest unused. */
static ks_safetensors *file_of(ks_conditions *c, const char *path, ks_error *err)
{
    open_file *oldest = &c->file[0];
    for (int i = 0; i < OPEN_FILES; i++) {
        open_file *f = &c->file[i];
        if (f->path && !strcmp(f->path, path)) {
            f->used = ++c->clock;
            return f->st;
        }
        if (f->used < oldest->used)
            oldest = f;
    }
    ks_safetensors *st = ks_safetensors_open(path, err);
    if (!st)
        return NULL;
    ks_safetensors_close(oldest->st);
    free(oldest->path);
    *oldest = (open_file){.st = st, .path = ks_strdup(path), .used = ++c->clock};
    return st;
}

/* A tensor of the file with its leading dimensions of 1 dropped down to `rank`. */
static int tensor_of(ks_safetensors *st, const char *name, int rank, ks_view *view, ks_error *err)
{
    if (ks_safetensors_get(st, name, view, err))
        return -1;
    while (view->rank > rank && view->shape[0] == 1) {
        view->rank--;
        memmove(view->shape, view->shape + 1, sizeof view->shape[0] * (size_t)view->rank);
    }
    bool empty = false;
    for (int i = 0; i < view->rank; i++)
        empty |= view->shape[i] == 0;
    if (view->rank == rank && !empty)
        return 0;
    return ks_error_set(err, "%s: tensor \"%s\" has %d dimensions%s; wanted is %s", ks_safetensors_path(st), name,
                        view->rank, empty ? " and no values" : "", rank == 2 ? "[tokens, width] or [1, tokens, width]"
                                                                          : "[width] or [1, width]");
}

static float *floats_of(ks_safetensors *st, const char *name, const ks_view *view, ks_error *err)
{
    float *values = ks_calloc((size_t)ks_view_elements(view), sizeof *values);
    if (ks_view_floats(view, values, err)) {
        ks_error_wrap(err, "%s: tensor \"%s\"", ks_safetensors_path(st), name);
        free(values);
        return NULL;
    }
    return values;
}

/* SDXL's sizes of a reference, with ComfyUI's defaults: the picture's own size, no crop, target as the size. */
static void sizes_of(const ks_conditions *c, const ks_cond_ref *ref, int size[6])
{
    const int given[6] = {ref->size[0], ref->size[1], ref->size[2], ref->size[3], ref->size[4], ref->size[5]};
    bool has = ref->has_size;
    size[0] = has && given[0] >= 0 ? given[0] : c->height;
    size[1] = has && given[1] >= 0 ? given[1] : c->width;
    size[2] = has && given[2] >= 0 ? given[2] : 0;
    size[3] = has && given[3] >= 0 ? given[3] : 0;
    size[4] = has && given[4] >= 0 ? given[4] : size[0];
    size[5] = has && given[5] >= 0 ? given[5] : size[1];
}

enum { SIZE_EMBEDDINGS = 6 * 256 };

/* The model's vector y from "y" as it is, or from "pooled" (with SDXL's size embeddings where the model wants them). */
static int vector_of(const ks_conditions *c, ks_safetensors *st, const ks_cond_ref *ref, content *out, ks_error *err)
{
    int wanted = c->config->unet.adm_channels;
    if (!wanted)
        return 0;
    const char *name = ref->y ? ref->y : ref->pooled;
    if (!name)
        return ks_error_set(err, "%s: the model needs a vector of %d values beside the conditioning \"%s\": name it as "
                            "\"pooled\" or \"y\"", ref->file, wanted, ref->cond);
    ks_view view;
    if (tensor_of(st, name, 1, &view, err))
        return -1;
    int64_t width = view.shape[0];
    bool sizes = !ref->y && width + SIZE_EMBEDDINGS == wanted;
    if (width != wanted && !sizes)
        return ks_error_set(err, "%s: tensor \"%s\" has %lld values; the model's vector has %d%s", ref->file, name,
                            (long long)width, wanted,
                            wanted > SIZE_EMBEDDINGS && !ref->y ? " (1536 of them made from the sizes)" : "");
    float *values = floats_of(st, name, &view, err);
    if (!values)
        return -1;
    if (!sizes) {
        out->y = values;
        return 0;
    }
    int size[6];
    sizes_of(c, ref, size);
    out->y = ks_calloc((size_t)wanted, sizeof *out->y);
    ks_sdxl_vector(values, (int)width, size, out->y);
    free(values);
    return 0;
}

static ks_hash128 id_of_content(const content *v, int width, int adm)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, "tensors");
    ks_hasher_add_u64(h, (uint64_t)v->tokens);
    ks_hasher_add(h, v->context, (size_t)v->tokens * (size_t)width * sizeof *v->context);
    ks_hasher_add(h, v->y, v->y ? (size_t)adm * sizeof *v->y : 0);
    return ks_hasher_end(h);
}

static ks_hash128 id_of_text(const char *text)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, "text");
    ks_hasher_add_text(h, text);
    return ks_hasher_end(h);
}

/* Reads a conditioning from its file and holds it against the model's widths. */
static int content_of_file(ks_conditions *c, const ks_cond_ref *ref, content *out, ks_error *err)
{
    ks_safetensors *st = file_of(c, ref->file, err);
    ks_view view;
    if (!st || tensor_of(st, ref->cond, 2, &view, err))
        return -1;
    int width = c->config->unet.context_dim;
    if (view.shape[1] != width)
        return ks_error_set(err, "%s: tensor \"%s\" is %lld wide; the model's conditioning is %d wide", ref->file,
                            ref->cond, (long long)view.shape[1], width);
    if (view.shape[0] > 1 << 20)
        return ks_error_set(err, "%s: tensor \"%s\" has %lld tokens; at most 1048576 make sense", ref->file, ref->cond,
                            (long long)view.shape[0]);
    out->tokens = (int)view.shape[0];
    out->context = floats_of(st, ref->cond, &view, err);
    if (!out->context || vector_of(c, st, ref, out, err))
        return -1;
    out->id = id_of_content(out, width, c->config->unet.adm_channels);
    return 0;
}

static int check_text(const ks_conditions *c, const char *text, ks_error *err)
{
    if (!c->config->text.present)
        return ks_error_set(err, "the prompt \"%.40s\" needs a text encoder, and the model file has none that this "
                            "version knows; give the conditioning as {\"file\": ..., \"cond\": ...}", text);
    if (c->config->unet.adm_channels)
        return ks_error_set(err, "the prompt \"%.40s\" cannot be used: the model needs a vector beside the text; give the "
                            "conditioning as {\"file\": ..., \"cond\": ..., \"pooled\": ...}", text);
    return 0;
}

int ks_conditions_digest(ks_conditions *c, const ks_conditioning *value, ks_hash128 *digest, ks_error *err)
{
    ks_hasher *h = ks_hasher_new();
    int rc = 0;
    for (int i = 0; i < value->count && !rc; i++) {
        const ks_cond_ref *ref = &value->item[i];
        content v = {0};
        if (ref->text) {
            rc = check_text(c, ref->text, err);
            v.id = id_of_text(ref->text);
        } else {
            rc = content_of_file(c, ref, &v, err);
        }
        content_clear(&v);
        ks_hasher_add(h, &v.id, sizeof v.id);
        ks_hasher_add_f64(h, ref->strength);
        ks_hasher_add_f64(h, ref->start_percent);
        ks_hasher_add_f64(h, ref->end_percent);
    }
    *digest = ks_hasher_end(h);
    return rc;
}

static ks_hash128 key_of(const ks_cond_ref *ref)
{
    if (ref->text)
        return id_of_text(ref->text);
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, "file");
    ks_hasher_add_text(h, ref->file);
    ks_hasher_add_text(h, ref->cond);
    ks_hasher_add_text(h, ref->pooled ? ref->pooled : "");
    ks_hasher_add_text(h, ref->y ? ref->y : "");
    ks_hasher_add(h, ref->size, ref->has_size ? sizeof ref->size : 0);
    return ks_hasher_end(h);
}

static entry **bucket_of(ks_conditions *c, const ks_hash128 *key)
{
    return &c->bucket[(key->byte[0] << 8 | key->byte[1]) % BUCKETS];
}

/* Drops the longest unused conditioning that no lane holds. */
static void drop_oldest(ks_conditions *c)
{
    entry **oldest = NULL;
    for (int b = 0; b < BUCKETS; b++) {
        for (entry **e = &c->bucket[b]; *e; e = &(*e)->next) {
            if (!(*e)->pins && (!oldest || (*e)->used < (*oldest)->used))
                oldest = e;
        }
    }
    if (!oldest)
        return;
    entry *gone = *oldest;
    *oldest = gone->next;
    entry_free(gone);
    c->entries--;
}

static entry *make(ks_conditions *c, ks_model *model, const ks_cond_ref *ref, const ks_hash128 *key, ks_error *err)
{
    content v = {0};
    entry *e = NULL;
    if (ref->text) {
        v.id = *key;
        if (ks_model_encode_text(model, ref->text, &v.context, &v.tokens, err))
            goto cleanup;
    } else if (content_of_file(c, ref, &v, err)) {
        goto cleanup;
    }
    ks_cond *cond = ks_cond_new(model, v.context, v.tokens, v.y, err);
    if (!cond)
        goto cleanup;
    if (c->entries >= KEPT)
        drop_oldest(c);
    e = ks_calloc(1, sizeof *e);
    *e = (entry){.key = *key, .id = v.id, .cond = cond, .next = *bucket_of(c, key)};
    *bucket_of(c, key) = e;
    c->entries++;
cleanup:
    content_clear(&v);
    return e;
}

int ks_conditions_take(ks_conditions *c, ks_model *model, const ks_conditioning *value, ks_guidance *out, ks_error *err)
{
    for (int i = 0; i < value->count; i++) {
        const ks_cond_ref *ref = &value->item[i];
        ks_hash128 key = key_of(ref);
        entry *e = *bucket_of(c, &key);
        while (e && !ks_hash_equal(&e->key, &key))
            e = e->next;
        if (!e && !(e = make(c, model, ref, &key, err))) {
            ks_conditions_give(c, out, i);
            return -1;
        }
        e->pins++;
        e->used = ++c->clock;
        out[i] = (ks_guidance){.cond = e->cond, .id = e->id, .strength = ref->strength,
                               .start_percent = ref->start_percent, .end_percent = ref->end_percent};
    }
    return 0;
}

void ks_conditions_give(ks_conditions *c, const ks_guidance *guidance, int count)
{
    for (int i = 0; i < count; i++) {
        for (int b = 0; b < BUCKETS; b++) {
            for (entry *e = c->bucket[b]; e; e = e->next)
                e->pins -= e->cond == guidance[i].cond;
        }
    }
}
