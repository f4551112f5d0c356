#include "model/safetensors.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/nearest.h"

enum { LENGTH_BYTES = 8, HEADER_LIMIT = 100000000, MOST_AXES = 8 };

/* The format's types; those of which a view can tell have a ks_dtype. */
typedef struct dtype_info {
    const char *name;
    int bits;
    int type; /* a ks_dtype, or -1 */
} dtype_info;

static const dtype_info dtypes[] = {
    {"F32", 32, KS_F32}, {"F16", 16, KS_F16}, {"BF16", 16, KS_BF16}, {"F64", 64, KS_F64},
    {"I32", 32, KS_I32}, {"I64", 64, KS_I64}, {"U8", 8, KS_U8},      {"BOOL", 8, -1},
    {"I8", 8, -1},       {"I16", 16, -1},     {"U16", 16, -1},       {"U32", 32, -1},
    {"U64", 64, -1},     {"C64", 64, -1},     {"F8_E4M3", 8, -1},    {"F8_E5M2", 8, -1},
    {"F8_E8M0", 8, -1},  {"F6_E2M3", 6, -1},  {"F6_E3M2", 6, -1},    {"F4", 4, -1},
};
enum { DTYPES = sizeof dtypes / sizeof *dtypes };

typedef struct tensor {
    char *name;
    const dtype_info *info;
    uint64_t begin, end; /* in the data */
    ks_view view;        /* dtype holds only where info->type is one */
} tensor;

struct ks_safetensors {
    char *path;
    ks_map map;
    tensor *tensors; /* ordered by name */
    int count;
};

/* --- the header --- */

typedef struct source {
    const unsigned char *data; /* behind the header */
    uint64_t size;             /* of the data */
} source;

static const dtype_info *find_dtype(const char *name)
{
    for (int i = 0; i < DTYPES; i++)
        if (strcmp(dtypes[i].name, name) == 0)
            return &dtypes[i];
    return NULL;
}

static int read_shape(ks_json shape, ks_view *view, ks_error *err)
{
    if (!ks_json_is_array(shape))
        return ks_json_error(shape, err, "wanted a list of sizes");
    view->rank = ks_json_size(shape);
    if (view->rank > MOST_AXES)
        return ks_json_error(shape, err, "%d axes; at most %d are possible", view->rank, MOST_AXES);
    for (int i = 0; i < view->rank; i++)
        if (ks_json_int(ks_json_at(shape, i), 0, INT64_MAX, &view->shape[i], err) != 0)
            return -1;
    return 0;
}

static int read_offsets(const source *from, ks_json offsets, tensor *t, ks_error *err)
{
    if (!ks_json_is_array(offsets) || ks_json_size(offsets) != 2)
        return ks_json_error(offsets, err, "wanted a list of two offsets");
    if (ks_json_u64(ks_json_at(offsets, 0), &t->begin, err) != 0 ||
        ks_json_u64(ks_json_at(offsets, 1), &t->end, err) != 0)
        return -1;
    if (t->begin > t->end)
        return ks_json_error(offsets, err, "begins at %llu, behind its end at %llu",
                             (unsigned long long)t->begin, (unsigned long long)t->end);
    if (t->end > from->size)
        return ks_json_error(offsets, err, "ends at byte %llu, but the file has %llu bytes of data; was it cut off while it "
                             "was copied?",
                             (unsigned long long)t->end, (unsigned long long)from->size);
    t->view.data = from->data + t->begin;
    return 0;
}

/* The shape's elements must fill the tensor's bytes exactly. */
static int check_bytes(ks_json entry, const tensor *t, ks_error *err)
{
    uint64_t bits = (uint64_t)t->info->bits, bytes = t->end - t->begin;
    bool overflow = false;
    for (int i = 0; i < t->view.rank; i++)
        overflow |= __builtin_mul_overflow(bits, (uint64_t)t->view.shape[i], &bits);
    if (overflow)
        return ks_json_error(entry, err, "the shape has more elements than 64 bits can count");
    if (bits % 8 != 0 || bits / 8 != bytes)
        return ks_json_error(entry, err, "the shape needs %llu bytes as %s, the offsets give %llu",
                             (unsigned long long)(bits / 8), t->info->name,
                             (unsigned long long)bytes);
    return 0;
}

static int read_tensor(const source *from, ks_json entry, tensor *t, ks_error *err)
{
    const char *type;
    if (ks_json_string(ks_json_get(entry, "dtype"), &type, err) != 0 ||
        read_shape(ks_json_get(entry, "shape"), &t->view, err) != 0 ||
        read_offsets(from, ks_json_get(entry, "data_offsets"), t, err) != 0)
        return -1;
    t->info = find_dtype(type);
    if (!t->info)
        return ks_json_error(ks_json_get(entry, "dtype"), err, "\"%.40s\" is no known type", type);
    if (t->info->type >= 0)
        t->view.dtype = (ks_dtype)t->info->type;
    return check_bytes(entry, t, err);
}

static int check_metadata(ks_json metadata, ks_error *err)
{
    const char *text;
    if (!ks_json_is_object(metadata))
        return ks_json_error(metadata, err, "wanted an object of texts");
    for (int i = 0; i < ks_json_size(metadata); i++)
        if (ks_json_string(ks_json_member(metadata, i, NULL), &text, err) != 0)
            return -1;
    return 0;
}

static int read_entries(ks_safetensors *st, const source *from, ks_json header, ks_error *err)
{
    if (!ks_json_is_object(header))
        return ks_json_error(header, err, "wanted an object of tensors");
    int entries = ks_json_size(header);
    st->tensors = ks_calloc((size_t)entries, sizeof *st->tensors);
    for (int i = 0; i < entries; i++) {
        const char *name;
        ks_json entry = ks_json_member(header, i, &name);
        if (strcmp(name, "__metadata__") == 0) {
            if (check_metadata(entry, err) != 0)
                return -1;
            continue;
        }
        tensor *t = &st->tensors[st->count++];
        t->name = ks_strdup(name);
        if (read_tensor(from, entry, t, err) != 0)
            return -1;
    }
    return 0;
}

static int compare_offsets(const void *a, const void *b)
{
    const tensor *const *l = a, *const *r = b;
    if ((*l)->begin != (*r)->begin)
        return (*l)->begin < (*r)->begin ? -1 : 1;
    return ((*l)->end > (*r)->end) - ((*l)->end < (*r)->end);
}

/* The format wants the tensors to cover the data without holes and without overlap. */
static int check_cover(const ks_safetensors *st, uint64_t size, ks_error *err)
{
    const tensor **order = ks_calloc((size_t)st->count, sizeof *order);
    uint64_t covered = 0;
    int status = 0;
    for (int i = 0; i < st->count; i++)
        order[i] = &st->tensors[i];
    qsort(order, (size_t)st->count, sizeof *order, compare_offsets);
    for (int i = 0; i < st->count && status == 0; i++) {
        const tensor *t = order[i];
        if (t->begin != covered)
            status = ks_error_set(err,
                                  "%s: tensor \"%.200s\" begins at data byte %llu, the one before "
                                  "it ends at %llu: %s",
                                  st->path, t->name, (unsigned long long)t->begin,
                                  (unsigned long long)covered,
                                  t->begin < covered ? "they overlap" : "there is a hole");
        covered = t->end;
    }
    free(order);
    if (status == 0 && covered != size)
        status = ks_error_set(err, "%s: %llu bytes of data, but the tensors end at %llu", st->path,
                              (unsigned long long)size, (unsigned long long)covered);
    return status;
}

/* --- opening --- */

const char *ks_safetensors_stranger(const void *bytes, size_t size)
{
    static const struct {
        const char *magic, *what;
    } formats[] = {
        {"PK\3\4", ": it seems to be a PyTorch .ckpt; convert it to safetensors"},
        {"\x80\2", ": it seems to be a Python pickle; convert it to safetensors"},
        {"GGUF", ": it seems to be GGUF; a safetensors file is wanted"},
        {"\x89HDF", ": it seems to be HDF5"},
        {"\x89PNG", ": it is a PNG picture"},
        {"\xFF\xD8\xFF", ": it is a JPEG picture"},
        {"GIF8", ": it is a GIF picture"},
        {"RIFF", ": it seems to be a WebP picture"},
        {"version https://git-lfs", ": it is a Git LFS pointer, not the file itself"},
        {"<!DOCTYPE", ": it is a web page, not the file itself"},
    };
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        size_t n = strlen(formats[i].magic);
        if (size >= n && memcmp(bytes, formats[i].magic, n) == 0)
            return formats[i].what;
    }
    return "";
}

/* The header's length; -1 when the file cannot hold it. */
static int64_t header_length(const char *path, const ks_map *map, ks_error *err)
{
    uint64_t length = 0;
    const char *stranger = ks_safetensors_stranger(map->data, map->size);
    if (map->size < LENGTH_BYTES)
        return ks_error_set(err, "%s: %zu bytes are no safetensors file%s", path, map->size, stranger);
    for (int i = 0; i < LENGTH_BYTES; i++)
        length |= (uint64_t)map->data[i] << (8 * i);
    if (length > HEADER_LIMIT && stranger[0])
        return ks_error_set(err, "%s: no safetensors file%s", path, stranger);
    if (length > HEADER_LIMIT)
        return ks_error_set(err, "%s: no safetensors file (its header would have %llu bytes, 100 MB are the limit)", path,
                            (unsigned long long)length);
    if (length > map->size - LENGTH_BYTES)
        return ks_error_set(err,
                            "%s: cut off: the header has %llu bytes, the file %zu behind its "
                            "length%s",
                            path, (unsigned long long)length, map->size - LENGTH_BYTES, stranger);
    return (int64_t)length;
}

static int compare_names(const void *a, const void *b)
{
    const tensor *l = a, *r = b;
    return strcmp(l->name, r->name);
}

static int read_header(ks_safetensors *st, ks_error *err)
{
    int64_t length = header_length(st->path, &st->map, err);
    if (length < 0)
        return -1;
    const char *text = (const char *)st->map.data + LENGTH_BYTES;
    source from = {.data = st->map.data + LENGTH_BYTES + length,
                   .size = st->map.size - LENGTH_BYTES - (uint64_t)length};
    char *name = ks_format("%s: header", st->path);
    ks_json_doc *doc = ks_json_parse(name, text, (size_t)length, err);
    free(name);
    if (!doc)
        return -1;
    int status = read_entries(st, &from, ks_json_root(doc), err);
    ks_json_free(doc);
    if (status != 0 || check_cover(st, from.size, err) != 0)
        return -1;
    qsort(st->tensors, (size_t)st->count, sizeof *st->tensors, compare_names);
    return 0;
}

ks_safetensors *ks_safetensors_of_map(const char *path, ks_map map, ks_error *err)
{
    ks_safetensors *st = ks_calloc(1, sizeof *st);
    st->path = ks_strdup(path);
    st->map = map;
    if (read_header(st, err) != 0) {
        ks_safetensors_close(st);
        return NULL;
    }
    return st;
}

ks_safetensors *ks_safetensors_open(const char *path, ks_error *err)
{
    ks_map map;
    return ks_map_open(path, &map, err) != 0 ? NULL : ks_safetensors_of_map(path, map, err);
}

void ks_safetensors_close(ks_safetensors *st)
{
    if (!st)
        return;
    for (int i = 0; i < st->count; i++)
        free(st->tensors[i].name);
    free(st->tensors);
    ks_map_close(&st->map);
    free(st->path);
    free(st);
}

/* --- looking up --- */

const char *ks_safetensors_path(const ks_safetensors *st)
{
    return st->path;
}

int ks_safetensors_count(const ks_safetensors *st)
{
    return st->count;
}

const char *ks_safetensors_name(const ks_safetensors *st, int index)
{
    return st->tensors[index].name;
}

int ks_safetensors_index(const ks_safetensors *st, const char *name)
{
    int low = 0, high = st->count;
    while (low < high) {
        int middle = low + (high - low) / 2;
        int order = strcmp(name, st->tensors[middle].name);
        if (order == 0)
            return middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

int ks_safetensors_find(const ks_safetensors *st, const char *name, ks_view *view)
{
    int index = ks_safetensors_index(st, name);
    if (index < 0 || st->tensors[index].info->type < 0)
        return 0;
    *view = st->tensors[index].view;
    return 1;
}

static int absent(const ks_safetensors *st, const char *name, ks_error *err)
{
    const char **names = ks_calloc((size_t)st->count, sizeof *names);
    for (int i = 0; i < st->count; i++)
        names[i] = st->tensors[i].name;
    const char *nearest = ks_nearest(name, names, (size_t)st->count);
    free(names);
    if (nearest)
        return ks_error_set(err, "%s: has no tensor \"%.200s\"; the nearest is \"%.200s\"",
                            st->path, name, nearest);
    return ks_error_set(err, "%s: has no tensor \"%.200s\"", st->path, name);
}

int ks_safetensors_get(const ks_safetensors *st, const char *name, ks_view *view, ks_error *err)
{
    int index = ks_safetensors_index(st, name);
    if (index < 0)
        return absent(st, name, err);
    const tensor *t = &st->tensors[index];
    if (t->info->type < 0)
        return ks_error_set(err, "%s: tensor \"%.200s\" is of type %s, which cannot be read here",
                            st->path, name, t->info->name);
    *view = t->view;
    return 0;
}

const void *ks_safetensors_bytes(const ks_safetensors *st, size_t *size)
{
    *size = st->map.size;
    return st->map.data;
}

/* --- views --- */

int64_t ks_view_elements(const ks_view *view)
{
    int64_t n = 1;
    for (int i = 0; i < view->rank; i++)
        n *= view->shape[i];
    return n;
}

static const dtype_info *info_of(ks_dtype type)
{
    const dtype_info *info = dtypes;
    while (info->type != (int)type)
        info++;
    return info;
}

size_t ks_dtype_size(ks_dtype type)
{
    return (size_t)info_of(type)->bits / 8;
}

const char *ks_dtype_name(ks_dtype type)
{
    return info_of(type)->name;
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* IEEE 754 binary16. Subnormals (exponent 0) are multiples of 2^-24. */
static float float_of_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = (half >> 10) & 31;
    uint32_t fraction = half & 0x3FF;
    if (exponent == 0) {
        float value = (float)fraction * 0x1p-24f;
        return sign ? -value : value;
    }
    uint32_t biased = exponent == 31 ? 255 : exponent + 127 - 15;
    return float_of_bits(sign | biased << 23 | fraction << 13);
}

static void floats_of_halves(const unsigned char *in, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        out[i] = float_of_half(half);
    }
}

/* bfloat16: the upper half of a float. */
static void floats_of_bfloats(const unsigned char *in, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t upper;
        memcpy(&upper, in + 2 * i, sizeof upper);
        out[i] = float_of_bits((uint32_t)upper << 16);
    }
}

static void floats_of_doubles(const unsigned char *in, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, in + 8 * i, sizeof value);
        out[i] = (float)value;
    }
}

int ks_view_floats(const ks_view *view, float *out, ks_error *err)
{
    int64_t n = ks_view_elements(view);
    switch (view->dtype) {
    case KS_F32:
        if (n > 0)
            memcpy(out, view->data, (size_t)n * sizeof *out);
        return 0;
    case KS_F16:
        floats_of_halves(view->data, out, n);
        return 0;
    case KS_BF16:
        floats_of_bfloats(view->data, out, n);
        return 0;
    case KS_F64:
        floats_of_doubles(view->data, out, n);
        return 0;
    default:
        return ks_error_set(err, "values of type %s cannot be read as floats",
                            ks_dtype_name(view->dtype));
    }
}
