#include "cluster/conditions.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "cluster/masks.h"
#include "sampling/regions.h"

/* Unused conditionings beyond so many, or so many bytes of all, are dropped, the longest unused first. */
enum { KEPT = 512, KEPT_BYTES = 512 << 20, BUCKETS = 1024, OPEN_FILES = 8, CELL = 8 };

typedef struct entry {
    ks_hash128 key; /* of the reference: where the content comes from */
    ks_hash128 id;  /* of the content */
    ks_cond *cond;
    int pins;
    size_t bytes; /* of host memory */
    uint64_t used;
    struct entry *next;
} entry;

typedef struct open_file {
    ks_safetensors *st;
    char *path;
    uint64_t used;
} open_file;

/* A text whose encoding is queued. */
typedef struct encoding {
    ks_hash128 key;
    ks_encoding *work;
} encoding;

enum { AHEAD = KS_ENCODINGS - 1 };

struct ks_conditions {
    const ks_model_config *config;
    int batch, height, width; /* of the latents, in cells */
    ks_masks *masks;
    entry *bucket[BUCKETS];
    int entries;
    size_t bytes;
    encoding ahead[AHEAD];
    int aheads;
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

ks_conditions *ks_conditions_new(const ks_model_config *config, const int shape[4])
{
    ks_conditions *c = ks_calloc(1, sizeof *c);
    c->config = config;
    c->batch = shape[0];
    c->height = shape[2];
    c->width = shape[3];
    c->masks = ks_masks_new(shape[0], shape[2], shape[3]);
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
    while (c->aheads > 0)
        ks_model_encode_end(c->ahead[--c->aheads].work, NULL, NULL);
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
    ks_masks_free(c->masks);
    free(c);
}

/* The open file of this path: from the few that are kept open, or opened in the place of the
 * longest unused. */
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
    return ks_error_set(err, "%s: tensor \"%s\" has %d dimensions%s; wanted is %s",
                        ks_safetensors_path(st), name, view->rank, empty ? " and no values" : "",
                        rank == 2 ? "[tokens, width] or [1, tokens, width]"
                                  : "[width] or [1, width]");
}

/* The tensor's values; free() them. Those that are not finite fail their samples, and nobody else's. */
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

/* SDXL's sizes of a reference, with ComfyUI's defaults: the picture's own size, no crop, target as
 * the size. */
static void sizes_of(const ks_conditions *c, const ks_cond_ref *ref, int size[6])
{
    const int given[6] = {ref->size[0], ref->size[1], ref->size[2],
                          ref->size[3], ref->size[4], ref->size[5]};
    bool has = ref->has_size;
    size[0] = has && given[0] >= 0 ? given[0] : CELL * c->height;
    size[1] = has && given[1] >= 0 ? given[1] : CELL * c->width;
    size[2] = has && given[2] >= 0 ? given[2] : 0;
    size[3] = has && given[3] >= 0 ? given[3] : 0;
    size[4] = has && given[4] >= 0 ? given[4] : size[0];
    size[5] = has && given[5] >= 0 ? given[5] : size[1];
}

enum { SIZE_EMBEDDINGS = 6 * 256 };

/* The model's vector y from "y" as it is, or from "pooled" (with SDXL's size embeddings where the
 * model wants them). */
static int vector_of(const ks_conditions *c, ks_safetensors *st, const ks_cond_ref *ref,
                     content *out, ks_error *err)
{
    int wanted = c->config->unet.adm_channels;
    if (!wanted)
        return 0;
    const char *name = ref->y ? ref->y : ref->pooled;
    if (!name)
        return ks_error_set(
            err,
            "%s: the model needs a vector of %d values beside the conditioning \"%s\": name it as "
            "\"pooled\" or \"y\"",
            ref->file, wanted, ref->cond);
    ks_view view;
    if (tensor_of(st, name, 1, &view, err))
        return -1;
    int64_t width = view.shape[0];
    bool sizes = !ref->y && width + SIZE_EMBEDDINGS == wanted;
    if (width != wanted && !sizes)
        return ks_error_set(
            err, "%s: tensor \"%s\" has %lld values; the model's vector has %d%s", ref->file, name,
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
        return ks_error_set(err,
                            "%s: tensor \"%s\" is %lld wide; the model's conditioning is %d wide",
                            ref->file, ref->cond, (long long)view.shape[1], width);
    if (view.shape[0] > 1 << 20)
        return ks_error_set(err, "%s: tensor \"%s\" has %lld tokens; at most 1048576 make sense",
                            ref->file, ref->cond, (long long)view.shape[0]);
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
        return ks_error_set(
            err,
            "the prompt \"%.40s\" needs a text encoder, and the model file has none that this "
            "version knows; give the conditioning as {\"file\": ..., \"cond\": ...}",
            text);
    if (c->config->unet.adm_channels)
        return ks_error_set(err,
                            "the prompt \"%.40s\" cannot be used: the model needs a vector beside "
                            "the text; give the "
                            "conditioning as {\"file\": ..., \"cond\": ..., \"pooled\": ...}",
                            text);
    return 0;
}

/* --- areas and masks --- */

static ks_window area_of(const ks_conditions *c, const ks_region_ref *r)
{
    if (r->shares)
        return ks_area_of_shares(r->area, c->height, c->width);
    return (ks_window){.h = (int)r->area[0] / CELL,
                       .w = (int)r->area[1] / CELL,
                       .y = (int)r->area[2] / CELL,
                       .x = (int)r->area[3] / CELL};
}

/* Where a conditioning counts: its mask is taken and must be given back. */
static int region_of(ks_conditions *c, const ks_cond_ref *ref, ks_guidance *g, ks_error *err)
{
    const ks_region_ref *r = ref->region;
    ks_mask mask;
    g->strength = ref->strength;
    g->start_percent = ref->start_percent;
    g->end_percent = ref->end_percent;
    if (!r)
        return 0;
    g->has_area = r->has_area;
    g->area = area_of(c, r);
    if (r->mask.file) {
        if (ks_masks_take(c->masks, &r->mask, &mask, err))
            return ks_error_wrap(err, "mask");
        g->mask = mask.values;
        g->masks = mask.count;
        g->mask_strength = r->mask_strength;
        g->has_area |= r->bounds;
        g->area = r->bounds ? mask.bounds : g->area;
    }
    return 0;
}

static void region_give(ks_conditions *c, const ks_guidance *g)
{
    if (g->mask)
        ks_masks_give(c->masks, g->mask);
}

static int check_region(const ks_conditions *c, const ks_guidance *g, ks_error *err)
{
    ks_window at = g->area;
    if (g->has_area && !ks_area_clip(&at, c->height, c->width))
        return ks_error_set(err,
                            "area: %d x %d pixels at line %d, column %d (height, width, y, x, "
                            "rounded down to cells of 8 pixels) lie outside the picture of %d x %d; "
                            "give an area that begins inside",
                            CELL * g->area.h, CELL * g->area.w, CELL * g->area.y, CELL * g->area.x,
                            CELL * c->height, CELL * c->width);
    if (g->mask && c->batch % g->masks)
        return ks_error_set(err,
                            "mask: %d masks for a batch of %d latents; give one, or a number that "
                            "divides the batch",
                            g->masks, c->batch);
    return 0;
}

/* Adds what the area and the mask change; a conditioning without them has the digest that it always
 * had. */
static void digest_region(const ks_conditions *c, const ks_guidance *g, ks_hasher *h)
{
    const int area[4] = {g->area.h, g->area.w, g->area.y, g->area.x};
    if (g->has_area)
        ks_hasher_add_text(h, "area");
    for (int i = 0; g->has_area && i < 4; i++)
        ks_hasher_add_u64(h, (uint64_t)area[i]);
    if (!g->mask)
        return;
    size_t cells = (size_t)c->height * (size_t)c->width;
    ks_hasher_add_text(h, "mask");
    ks_hasher_add_f64(h, g->mask_strength);
    ks_hasher_add(h, g->mask, (size_t)g->masks * cells * sizeof *g->mask);
}

/* Checks one conditioning and gives the digest of its content. */
static int check_content(ks_conditions *c, const ks_cond_ref *ref, ks_hash128 *id, ks_error *err)
{
    content v = {0};
    int rc;
    if (ref->text) {
        rc = check_text(c, ref->text, err);
        v.id = id_of_text(ref->text);
    } else {
        rc = content_of_file(c, ref, &v, err);
    }
    content_clear(&v);
    *id = v.id;
    return rc;
}

static int digest_one(ks_conditions *c, const ks_cond_ref *ref, ks_hasher *h, ks_error *err)
{
    ks_guidance g = {0};
    ks_hash128 id;
    if (region_of(c, ref, &g, err))
        return -1;
    int rc = check_region(c, &g, err) || check_content(c, ref, &id, err) ? -1 : 0;
    if (!rc) {
        ks_hasher_add(h, &id, sizeof id);
        ks_hasher_add_f64(h, ref->strength);
        ks_hasher_add_f64(h, ref->start_percent);
        ks_hasher_add_f64(h, ref->end_percent);
        digest_region(c, &g, h);
    }
    region_give(c, &g);
    return rc;
}

int ks_conditions_digest(ks_conditions *c, const ks_conditioning *value, ks_hash128 *digest,
                         ks_error *err)
{
    ks_hasher *h = ks_hasher_new();
    int rc = 0;
    for (int i = 0; i < value->count && !rc; i++) {
        rc = digest_one(c, &value->item[i], h, err);
        if (rc && value->count > 1)
            ks_error_wrap(err, "conditioning %d", i);
    }
    *digest = ks_hasher_end(h);
    return rc;
}

/* --- counting --- */

static bool has_area(const ks_cond_ref *ref)
{
    return ref->region && (ref->region->has_area || ref->region->bounds);
}

int ks_conditions_areas(const ks_conditioning *value)
{
    int areas = 0;
    for (int i = 0; i < value->count; i++)
        areas += has_area(&value->item[i]);
    return areas;
}

double ks_conditions_cells(ks_conditions *c, const ks_conditioning *value, bool areas)
{
    double sum = 0, whole = (double)c->height * c->width;
    for (int i = 0; i < value->count; i++) {
        const ks_cond_ref *ref = &value->item[i];
        ks_guidance g = {0};
        if (areas && !has_area(ref))
            continue;
        bool part = has_area(ref) && !region_of(c, ref, &g, NULL) &&
                    ks_area_clip(&g.area, c->height, c->width);
        sum += part ? (double)g.area.h * g.area.w / whole : 1;
        region_give(c, &g);
    }
    return sum;
}

/* --- conds --- */

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

/* Drops the longest unused conditioning that no lane holds; whether there was one. */
static bool drop_oldest(ks_conditions *c)
{
    entry **oldest = NULL;
    for (int b = 0; b < BUCKETS; b++) {
        for (entry **e = &c->bucket[b]; *e; e = &(*e)->next) {
            if (!(*e)->pins && (!oldest || (*e)->used < (*oldest)->used))
                oldest = e;
        }
    }
    if (!oldest)
        return false;
    entry *gone = *oldest;
    *oldest = gone->next;
    c->bytes -= gone->bytes;
    entry_free(gone);
    c->entries--;
    return true;
}

/* A million prompts must pass through: makes room for one more of so many bytes. */
static void make_room(ks_conditions *c, size_t bytes)
{
    while (c->entries >= KEPT || (c->entries > 0 && c->bytes + bytes > KEPT_BYTES)) {
        if (!drop_oldest(c))
            return;
    }
}

/* Keeps the content as a cond, which copies it. */
static entry *keep(ks_conditions *c, ks_model *model, const ks_hash128 *key, const content *v, ks_error *err)
{
    ks_cond *cond = ks_cond_new(model, v->context, v->tokens, v->y, err);
    if (!cond)
        return NULL;
    size_t bytes = ((size_t)v->tokens * (size_t)c->config->unet.context_dim + (size_t)c->config->unet.adm_channels) * sizeof(float);
    make_room(c, bytes);
    entry *e = ks_calloc(1, sizeof *e);
    *e = (entry){.key = *key, .id = v->id, .cond = cond, .bytes = bytes, .used = ++c->clock, .next = *bucket_of(c, key)};
    *bucket_of(c, key) = e;
    c->entries++;
    c->bytes += bytes;
    return e;
}

static entry *make(ks_conditions *c, ks_model *model, const ks_cond_ref *ref, const ks_hash128 *key, ks_error *err)
{
    content v = {.id = *key};
    entry *e = NULL;
    int failed = ref->text ? ks_model_encode_text(model, ref->text, &v.context, &v.tokens, err) : content_of_file(c, ref, &v, err);
    if (!failed)
        e = keep(c, model, key, &v, err);
    content_clear(&v);
    return e;
}

static entry *find_entry(ks_conditions *c, const ks_hash128 *key)
{
    entry *e = *bucket_of(c, key);
    while (e && !ks_hash_equal(&e->key, key))
        e = e->next;
    return e;
}

static bool is_ahead(const ks_conditions *c, const ks_hash128 *key)
{
    for (int i = 0; i < c->aheads; i++)
        if (ks_hash_equal(&c->ahead[i].key, key))
            return true;
    return false;
}

int ks_conditions_encode_ahead(ks_conditions *c, ks_model *model, const ks_conditioning *value, ks_error *err)
{
    for (int i = 0; i < value->count && c->aheads < AHEAD; i++) {
        if (!value->item[i].text)
            continue;
        ks_hash128 key = key_of(&value->item[i]);
        if (find_entry(c, &key) || is_ahead(c, &key))
            continue;
        ks_encoding *work = ks_model_encode_begin(model, value->item[i].text, err);
        if (!work)
            return -1;
        c->ahead[c->aheads++] = (encoding){key, work};
    }
    return 0;
}

bool ks_conditions_on_their_way(const ks_conditions *c)
{
    return c->aheads > 0;
}

int ks_conditions_settle(ks_conditions *c, ks_model *model, ks_error *err)
{
    int rc = 0;
    for (int i = 0; i < c->aheads; i++) {
        content v = {.id = c->ahead[i].key};
        ks_model_encode_end(c->ahead[i].work, &v.context, &v.tokens);
        if (rc == 0 && !keep(c, model, &c->ahead[i].key, &v, err))
            rc = -1;
        content_clear(&v);
    }
    c->aheads = 0;
    return rc;
}

/* The kept conditioning of a reference, made when there is none; one on its way is waited for. */
static entry *entry_of(ks_conditions *c, ks_model *model, const ks_cond_ref *ref, ks_error *err)
{
    ks_hash128 key = key_of(ref);
    if (is_ahead(c, &key) && (ks_model_wait(model, err) || ks_conditions_settle(c, model, err)))
        return NULL;
    entry *e = find_entry(c, &key);
    return e ? e : make(c, model, ref, &key, err);
}

int ks_conditions_take(ks_conditions *c, ks_model *model, const ks_conditioning *value,
                       ks_guidance *out, ks_error *err)
{
    for (int i = 0; i < value->count; i++) {
        const ks_cond_ref *ref = &value->item[i];
        out[i] = (ks_guidance){0};
        entry *e = entry_of(c, model, ref, err);
        if (e) {
            e->pins++;
            e->used = ++c->clock;
            out[i].cond = e->cond;
            out[i].id = e->id;
        }
        if (!e || region_of(c, ref, &out[i], err)) {
            ks_conditions_give(c, out, e ? i + 1 : i);
            return -1;
        }
    }
    return 0;
}

void ks_conditions_give(ks_conditions *c, const ks_guidance *guidance, int count)
{
    for (int i = 0; i < count; i++) {
        region_give(c, &guidance[i]);
        for (int b = 0; b < BUCKETS; b++) {
            for (entry *e = c->bucket[b]; e; e = e->next)
                e->pins -= e->cond == guidance[i].cond;
        }
    }
}
