#include "store/info.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "store/h5.h"

enum { LARGEST_SIDE = 1 << 20, PIXELS = 8, MOST_VALUES = 1 << 28 }; /* of a latent */

/* The texts that are attributes of the same form in every file. */
static const struct {
    const char *name;
    size_t offset;
} texts[] = {
    {"job", offsetof(ks_store_info, job)},
    {"job_path", offsetof(ks_store_info, job_path)},
    {"model", offsetof(ks_store_info, model)},
    {"model_sha256", offsetof(ks_store_info, model_sha256)},
    {"ksweep_version", offsetof(ks_store_info, version)},
    {"backend", offsetof(ks_store_info, backend)},
    {"device", offsetof(ks_store_info, device)},
    {"precision", offsetof(ks_store_info, precision)},
    {"noise_device", offsetof(ks_store_info, noise_device)},
    {"parallel", offsetof(ks_store_info, parallel)},
    {"axis_files", offsetof(ks_store_info, axis_files)},
};

/* The lists of texts: data sets of strings in a collected file, or (names) attributes. */
static const struct {
    const char *name;
    size_t list, count;
    bool names;
} lists[] = {
    {"positive", offsetof(ks_store_info, positive), offsetof(ks_store_info, positives), false},
    {"negative", offsetof(ks_store_info, negative), offsetof(ks_store_info, negatives), false},
    {"latent_image", offsetof(ks_store_info, latent_image), offsetof(ks_store_info, latents),
     false},
    {"sampler_names", offsetof(ks_store_info, sampler_names), offsetof(ks_store_info, samplers),
     true},
    {"scheduler_names", offsetof(ks_store_info, scheduler_names),
     offsetof(ks_store_info, schedulers), true},
};

enum { TEXTS = sizeof texts / sizeof *texts, LISTS = sizeof lists / sizeof *lists };

static char *text_of(const ks_store_info *info, int i)
{
    char *text;
    memcpy(&text, (const char *)info + texts[i].offset, sizeof text);
    return text;
}

static char **list_of(const ks_store_info *info, int i)
{
    char **list;
    memcpy(&list, (const char *)info + lists[i].list, sizeof list);
    return list;
}

static int count_of(const ks_store_info *info, int i)
{
    int count;
    memcpy(&count, (const char *)info + lists[i].count, sizeof count);
    return count;
}

static void set_text(ks_store_info *info, int i, char *text)
{
    memcpy((char *)info + texts[i].offset, &text, sizeof text);
}

static void set_list(ks_store_info *info, int i, char **list, int count)
{
    memcpy((char *)info + lists[i].list, &list, sizeof list);
    memcpy((char *)info + lists[i].count, &count, sizeof count);
}

int ks_info_check(const ks_store_info *info, ks_error *err)
{
    const int side[3] = {info->channels, info->height, info->width};
    for (int i = 0; i < 3; i++)
        if (side[i] < 1 || side[i] > LARGEST_SIDE)
            return ks_error_set(err, "a latent of [%d, %d, %d] cannot be stored", side[0], side[1],
                                side[2]);
    if ((int64_t)side[1] * side[2] > INT32_MAX / (64 * 3) ||
        (int64_t)side[0] * side[1] * side[2] > MOST_VALUES)
        return ks_error_set(err, "a latent of [%d, %d, %d] is too large to store", side[0], side[1],
                            side[2]);
    if (info->positives < 0 || info->negatives < 0 || info->latents < 0)
        return ks_error_set(err, "the output's tables of labels have negative lengths");
    return 0;
}

size_t ks_info_latent_bytes(const ks_store_info *info)
{
    return (size_t)info->channels * (size_t)info->height * (size_t)info->width *
           (info->float16 ? 2 : 4);
}

size_t ks_info_image_bytes(const ks_store_info *info)
{
    return (size_t)info->height * (size_t)info->width * PIXELS * PIXELS * 3;
}

void ks_info_time(double seconds, char out[32])
{
    time_t whole = (time_t)seconds;
    struct tm utc;
    out[0] = 0;
    if (seconds > 0 && gmtime_r(&whole, &utc))
        strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct pairs {
    char *bytes;
    size_t size, room;
} pairs;

static void put_bytes(pairs *p, const char *text)
{
    size_t size = strlen(text) + 1;
    if (p->room - p->size < size) {
        p->room = 2 * p->room + size + 4096;
        p->bytes = ks_realloc(p->bytes, p->room, 1);
    }
    memcpy(p->bytes + p->size, text, size);
    p->size += size;
}

static void put_pair(pairs *p, const char *name, const char *value)
{
    put_bytes(p, name);
    put_bytes(p, value ? value : "");
}

static void put_number(pairs *p, const char *name, double value)
{
    char text[40];
    snprintf(text, sizeof text, "%.17g", value);
    put_pair(p, name, text);
}

static pairs make_pairs(const ks_store_info *info, double created)
{
    char samples[32];
    pairs p = {0};
    snprintf(samples, sizeof samples, "%llu", (unsigned long long)info->samples);
    put_pair(&p, "format", "1");
    put_pair(&p, "sweep_samples", samples);
    put_number(&p, "batch_rows", info->batch_rows);
    put_number(&p, "start_time", info->start_time);
    put_number(&p, "end_time", info->end_time);
    put_number(&p, "created", created > 0 ? created : now());
    for (int i = 0; i < TEXTS; i++)
        put_pair(&p, texts[i].name, text_of(info, i));
    for (int i = 0; i < LISTS; i++)
        for (int k = 0; k < count_of(info, i); k++)
            put_pair(&p, lists[i].name, list_of(info, i)[k]);
    return p;
}

static uint64_t check_of(const char *bytes, size_t size)
{
    uint64_t check;
    ks_hash128 h = ks_hash(bytes, size);
    memcpy(&check, h.byte, sizeof check);
    return check;
}

int ks_info_write(hid_t file, const char *path, const ks_store_info *info, double created,
                  ks_error *err)
{
    pairs p = make_pairs(info, created);
    hsize_t size = p.size;
    hid_t space = H5Screate_simple(1, &size, NULL), set = -1;
    int status = -1;
    if (KS_H5(set = H5Dcreate2(file, "info", H5T_STD_U8LE, space, H5P_DEFAULT, H5P_DEFAULT,
                               H5P_DEFAULT),
              err, "%s: cannot make /info", path) ||
        KS_H5(H5Dwrite(set, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, p.bytes), err,
              "%s: cannot write", path))
        goto cleanup;
    status = ks_h5_put_u64(set, path, "check", check_of(p.bytes, p.size), err);
cleanup:
    ks_h5_close(&set);
    ks_h5_close(&space);
    free(p.bytes);
    return status;
}

double ks_info_bytes(const ks_store_info *info)
{
    ks_store_info rest = *info;
    double bytes = 0;
    for (int i = 0; i < LISTS; i++) {
        for (int k = 0; k < count_of(info, i); k++)
            bytes += (double)(strlen(lists[i].name) + strlen(list_of(info, i)[k])) + 2;
        set_list(&rest, i, NULL, 0);
    }
    pairs p = make_pairs(&rest, 1);
    free(p.bytes);
    return bytes + (double)p.size;
}

double ks_info_published_bytes(const ks_store_info *info)
{
    enum { OF_A_TEXT = 16 + 16 + 8 }; /* HDF5's reference to it, the head of its place, and what that is rounded up by, at most */
    double bytes = 0;
    for (int i = 0; i < TEXTS; i++)
        bytes += OF_A_TEXT + (double)strlen(text_of(info, i) ? text_of(info, i) : "");
    for (int i = 0; i < LISTS; i++)
        for (int k = 0; k < count_of(info, i); k++)
            bytes += OF_A_TEXT + (double)strlen(list_of(info, i)[k]);
    return bytes;
}

static int put_time(hid_t file, const char *path, const char *name, double seconds, ks_error *err)
{
    char text[32], unix_name[32];
    ks_info_time(seconds, text);
    snprintf(unix_name, sizeof unix_name, "%s_unix", name);
    return ks_h5_put_text(file, path, name, text, err) ||
                   ks_h5_put_real(file, path, unix_name, seconds, err)
               ? -1
               : 0;
}

int ks_info_publish(hid_t file, const char *path, const ks_store_info *info, ks_error *err)
{
    int status = 0;
    for (int i = 0; i < TEXTS && !status; i++)
        status = ks_h5_put_text(file, path, texts[i].name, text_of(info, i), err);
    for (int i = 0; i < LISTS && !status; i++)
        status = lists[i].names ? ks_h5_put_texts(file, path, lists[i].name,
                                                  (const char *const *)list_of(info, i),
                                                  count_of(info, i), err)
                                : ks_h5_put_strings(file, path, lists[i].name, list_of(info, i),
                                                    count_of(info, i), err);
    return status || ks_h5_put_u64(file, path, "ksweep_format", 1, err) ||
                   ks_h5_put_u64(file, path, "sweep_samples", info->samples, err) ||
                   ks_h5_put_u64(file, path, "batch_rows", (uint64_t)info->batch_rows, err) ||
                   put_time(file, path, "start_time", info->start_time, err) ||
                   put_time(file, path, "end_time", info->end_time, err)
               ? -1
               : 0;
}

static void add_to_list(ks_store_info *info, int i, const char *value)
{
    char **list = list_of(info, i);
    int count = count_of(info, i);
    if ((count & (count - 1)) == 0) /* room is doubled at powers of two */
        list = ks_realloc(list, count ? 2 * (size_t)count : 1, sizeof *list);
    list[count] = ks_strdup(value);
    set_list(info, i, list, count + 1);
}

static void take_pair(ks_store_info *info, double *created, const char *name, const char *value)
{
    const struct {
        const char *name;
        double *to;
    } reals[] = {
        {"start_time", &info->start_time}, {"end_time", &info->end_time}, {"created", created}};
    for (int i = 0; i < TEXTS; i++)
        if (!strcmp(name, texts[i].name) && !text_of(info, i))
            set_text(info, i, ks_strdup(value));
    for (int i = 0; i < LISTS; i++)
        if (!strcmp(name, lists[i].name))
            add_to_list(info, i, value);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        if (!strcmp(name, reals[i].name))
            *reals[i].to = strtod(value, NULL);
    if (!strcmp(name, "sweep_samples"))
        info->samples = strtoull(value, NULL, 10);
    if (!strcmp(name, "batch_rows"))
        info->batch_rows = (int)strtol(value, NULL, 10);
}

static int read_pairs(hid_t file, const char *path, ks_store_info *info, double *created,
                      ks_error *err)
{
    hid_t set = -1;
    char *bytes = NULL;
    size_t size = 0;
    uint64_t check = 0;
    int status = -1;
    if (H5Lexists(file, "info", H5P_DEFAULT) <= 0) {
        ks_error_set(err, "%s: is an HDF5 file and no output of ksweep: it has no /info", path);
        goto cleanup;
    }
    if ((set = ks_h5_open_set(file, path, "info", err)) < 0 ||
        ks_h5_get_u64(set, path, "check", &check, err) ||
        ks_h5_get_bytes(set, path, &bytes, &size, err))
        goto cleanup;
    if (check != check_of(bytes, size) || bytes[size - 1]) {
        ks_error_set(err, "%s: /info is damaged", path);
        goto cleanup;
    }
    for (const char *at = bytes, *end = bytes + size; at < end;) {
        const char *value = at + strlen(at) + 1;
        take_pair(info, created, at, value < end ? value : "");
        at = value < end ? value + strlen(value) + 1 : end;
    }
    status = 0;
cleanup:
    free(bytes);
    ks_h5_close(&set);
    return status;
}

/* Shape and type of /latents, and whether there is /images. */
static int read_shape(hid_t file, const char *path, ks_store_info *info, ks_error *err)
{
    int status = -1;
    hsize_t size[4] = {0};
    hid_t set = -1, space = -1, type = -1;
    if ((set = ks_h5_open_set(file, path, "latents", err)) < 0 ||
        KS_H5(space = H5Dget_space(set), err, "%s: cannot read /latents", path) ||
        KS_H5(type = H5Dget_type(set), err, "%s: cannot read /latents", path))
        goto cleanup;
    if (H5Sget_simple_extent_ndims(space) != 4 ||
        H5Sget_simple_extent_dims(space, size, NULL) < 0 || H5Tget_class(type) != H5T_FLOAT ||
        (H5Tget_size(type) != 4 && H5Tget_size(type) != 2)) {
        ks_error_set(err, "%s: /latents is not [N, C, H, W] of float32 or float16", path);
        goto cleanup;
    }
    for (int i = 1; i < 4; i++)
        size[i] = size[i] > LARGEST_SIDE ? 0 : size[i]; /* 0 is refused below */
    info->channels = (int)size[1];
    info->height = (int)size[2];
    info->width = (int)size[3];
    info->float16 = ks_h5_is_float16(type);
    info->images = H5Lexists(file, "images", H5P_DEFAULT) > 0;
    status = ks_info_check(info, err) ? ks_error_wrap(err, "%s", path) : 0;
cleanup:
    ks_h5_close(&type);
    ks_h5_close(&space);
    ks_h5_close(&set);
    return status;
}

ks_store_info *ks_info_read(hid_t file, const char *path, double *created, ks_error *err)
{
    double unused;
    ks_store_info *info = ks_calloc(1, sizeof *info);
    if (read_pairs(file, path, info, created ? created : &unused, err) ||
        read_shape(file, path, info, err)) {
        ks_store_info_free(info);
        return NULL;
    }
    for (int i = 0; i < TEXTS; i++)
        if (!text_of(info, i))
            set_text(info, i, ks_strdup(""));
    return info;
}

void ks_store_info_free(ks_store_info *info)
{
    if (!info)
        return;
    for (int i = 0; i < TEXTS; i++)
        free(text_of(info, i));
    for (int i = 0; i < LISTS; i++) {
        for (int k = 0; k < count_of(info, i); k++)
            free(list_of(info, i)[k]);
        free(list_of(info, i));
    }
    free(info);
}

ks_hash128 ks_info_sweep(const ks_store_info *info)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, info->job ? info->job : "");
    ks_hasher_add_text(h, info->model_sha256 ? info->model_sha256 : "");
    ks_hasher_add_text(h, info->axis_files ? info->axis_files : "");
    return ks_hasher_end(h);
}
