/* One replica's shard. A row is written after its latent and its picture have left for the file, so
 * that a kill at any instant leaves rows whose data are there, and perhaps data without a row.
 * HDF5's SWMR mode keeps the metadata on disk readable at every instant. */
#include "store/shard.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "store/float16.h"
#include "store/h5.h"
#include "store/info.h"

enum {
    CHUNK_BYTES = 64 << 10, /* smaller rows share a chunk of about this size */
    ROWS_IN_CHUNK = 64,     /* of the table: 10 KiB */
    LAST_NUMBER = 9999999,
};

struct ks_shard {
    char *path;
    hid_t file, latents, images, samples; /* images -1: none are kept */
    hid_t latent_type, row_type;
    ks_store_info info; /* sizes and name lists alone; owns the names */
    uint64_t rows;      /* whose latents were handed to HDF5 */
    uint64_t flushed;   /* of those, rows in the table */
    ks_table_row *pending;
    size_t room;
    void *zeros, *halves;
    ks_error broken; /* the first failed write: nothing more is written after it */
};

char *ks_shard_path(const char *dir, int number)
{
    return ks_format("%s/shard-%04d.h5", dir, number);
}

int ks_shard_number(const char *name)
{
    int number = -1, end = 0;
    if (sscanf(name, "shard-%7d.h5%n", &number, &end) != 1 || !end || name[end] || number < 0)
        return -1;
    return number;
}

int ks_shard_next(const char *dir)
{
    int next = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        int number = ks_shard_number(e->d_name);
        next = number >= next ? number + 1 : next;
    }
    if (d)
        closedir(d);
    return next;
}

/* Makes an empty file under the next free number; O_EXCL decides between replicas that try the same
 * one. */
static char *claim(const char *dir, ks_error *err)
{
    if (mkdir(dir, 0777) && errno != EEXIST) {
        ks_error_set(err, "%s: cannot make the folder: %s", dir, strerror(errno));
        return NULL;
    }
    for (int number = ks_shard_next(dir); number <= LAST_NUMBER; number++) {
        char *path = ks_shard_path(dir, number);
        int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (fd >= 0) {
            close(fd);
            return path;
        }
        if (errno != EEXIST) {
            ks_error_set(err, "%s: cannot make the file: %s", path, strerror(errno));
            free(path);
            return NULL;
        }
        free(path);
    }
    ks_error_set(err, "%s: there is no free shard number up to %d", dir, LAST_NUMBER);
    return NULL;
}

static const char *const *copy_names(const char *const *names, int count)
{
    char **copy = ks_calloc((size_t)count + 1, sizeof *copy);
    for (int i = 0; i < count; i++)
        copy[i] = ks_strdup(names[i]);
    return (const char *const *)copy;
}

static void copy_sizes(ks_shard *s, const ks_store_info *info)
{
    s->info = (ks_store_info){
        .channels = info->channels,
        .height = info->height,
        .width = info->width,
        .float16 = info->float16,
        .images = info->images,
        .samplers = info->samplers,
        .schedulers = info->schedulers,
        .sampler_names = copy_names(info->sampler_names, info->samplers),
        .scheduler_names = copy_names(info->scheduler_names, info->schedulers)};
    s->latent_type = ks_h5_float_type(info->float16);
    s->row_type = ks_table_memory_type(ks_table_extent_of(info));
    size_t latent = ks_info_latent_bytes(info),
           image = info->images ? ks_info_image_bytes(info) : 0;
    s->zeros = ks_calloc(1, latent > image ? latent : image);
    s->halves = ks_calloc(1, latent);
}

/* An unlimited data set of items of the given size, chunks of `rows` items. */
static hid_t make_set(const ks_shard *s, const char *name, hid_t type, int rank,
                      const hsize_t *item, hsize_t rows, ks_error *err)
{
    hsize_t size[4] = {0}, limit[4] = {H5S_UNLIMITED}, chunk[4] = {rows};
    for (int i = 1; i < rank; i++)
        size[i] = limit[i] = chunk[i] = item[i - 1];
    hid_t space = H5Screate_simple(rank, size, limit), list = H5Pcreate(H5P_DATASET_CREATE),
          set = -1;
    if (H5Pset_chunk(list, rank, chunk) < 0 ||
        (set = H5Dcreate2(s->file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT)) < 0)
        ks_h5_fail(err, "%s: cannot make /%s", s->path, name);
    ks_h5_close(&list);
    ks_h5_close(&space);
    return set;
}

static hsize_t chunk_rows(size_t bytes)
{
    return bytes >= CHUNK_BYTES ? 1 : CHUNK_BYTES / bytes;
}

static int make_sets(ks_shard *s, ks_error *err)
{
    const ks_store_info *i = &s->info;
    const hsize_t latent[3] = {(hsize_t)i->channels, (hsize_t)i->height, (hsize_t)i->width};
    const hsize_t image[3] = {(hsize_t)i->height * 8, (hsize_t)i->width * 8, 3};
    s->latents = make_set(s, "latents", s->latent_type, 4, latent,
                          chunk_rows(ks_info_latent_bytes(i)), err);
    hid_t row_type = ks_table_file_type(ks_table_extent_of(i));
    s->samples = s->latents < 0 ? -1 : make_set(s, "samples", row_type, 1, NULL, ROWS_IN_CHUNK, err);
    ks_h5_close(&row_type);
    if (s->samples >= 0 && i->images)
        s->images = make_set(s, "images", H5T_STD_U8LE, 4, image,
                             chunk_rows(ks_info_image_bytes(i)), err);
    return s->samples < 0 || (i->images && s->images < 0) ? -1 : 0;
}

static int make_file(ks_shard *s, ks_error *err)
{
    hid_t list = ks_h5_file_access();
    H5Pset_libver_bounds(list, H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
    s->file = H5Fcreate(s->path, H5F_ACC_TRUNC, H5P_DEFAULT, list);
    int status = KS_H5(s->file, err, "%s: cannot make the file", s->path);
    ks_h5_close(&list);
    return status;
}

static void free_shard(ks_shard *s)
{
    for (int i = 0; i < s->info.samplers; i++)
        free((char *)(uintptr_t)s->info.sampler_names[i]);
    for (int i = 0; i < s->info.schedulers; i++)
        free((char *)(uintptr_t)s->info.scheduler_names[i]);
    free((char **)(uintptr_t)s->info.sampler_names);
    free((char **)(uintptr_t)s->info.scheduler_names);
    ks_h5_close(&s->latent_type);
    ks_h5_close(&s->row_type);
    free(s->pending);
    free(s->zeros);
    free(s->halves);
    free(s->path);
    free(s);
}

static int close_file(ks_shard *s, ks_error *err)
{
    int status = 0;
    hid_t set[3] = {s->latents, s->images, s->samples};
    for (int i = 0; i < 3; i++)
        if (set[i] >= 0 && H5Dclose(set[i]) < 0 && !status)
            status = ks_h5_fail(err, "%s: cannot close", s->path);
    if (s->file >= 0 && H5Fclose(s->file) < 0 && !status)
        status = ks_h5_fail(err, "%s: cannot close", s->path);
    H5Eclear2(H5E_DEFAULT);
    return status;
}

ks_shard *ks_shard_create_as(const char *dir, const ks_store_info *info, double created,
                             ks_error *err)
{
    ks_h5_start();
    if (ks_info_check(info, err))
        return NULL;
    char *path = claim(dir, err);
    if (!path)
        return NULL;
    ks_shard *s = ks_calloc(1, sizeof *s);
    s->path = path;
    s->file = s->latents = s->images = s->samples = s->latent_type = s->row_type = -1;
    copy_sizes(s, info);
    if (make_file(s, err) || ks_info_write(s->file, path, info, created, err) ||
        make_sets(s, err) ||
        KS_H5(H5Fstart_swmr_write(s->file), err, "%s: cannot start SWMR writing", path) ||
        ks_h5_sync_folder(path, err) || ks_h5_sync_folder(dir, err)) {
        close_file(s, NULL);
        unlink(path);
        free_shard(s);
        return NULL;
    }
    return s;
}

ks_shard *ks_shard_create(const char *dir, const ks_store_info *info, ks_error *err)
{
    return ks_shard_create_as(dir, info, 0, err);
}

const char *ks_shard_file(const ks_shard *s)
{
    return s->path;
}

/* Keeps the first failure: HDF5's state is not to be trusted after one, the rows flushed before are
 * safe. */
static int broke(ks_shard *s, const ks_error *why, ks_error *err)
{
    if (!s->broken.text[0])
        s->broken = *why;
    return ks_error_set(err, "%s", s->broken.text);
}

/* Row number s->rows of a data set. */
static int write_item(ks_shard *s, hid_t set, int rank, const hsize_t *item, hid_t type,
                      const void *data, ks_error *err)
{
    hsize_t size[4] = {s->rows + 1};
    for (int i = 1; i < rank; i++)
        size[i] = item[i - 1];
    if (KS_H5(H5Dset_extent(set, size), err, "%s: cannot write", s->path))
        return -1;
    return ks_h5_write_items(set, s->path, type, s->rows, 1, data, err);
}

int ks_shard_append_stored(ks_shard *s, const ks_table_row *row, const void *latent,
                           const uint8_t *image, ks_error *err)
{
    const ks_store_info *i = &s->info;
    const hsize_t latent_size[3] = {(hsize_t)i->channels, (hsize_t)i->height, (hsize_t)i->width};
    const hsize_t image_size[3] = {(hsize_t)i->height * 8, (hsize_t)i->width * 8, 3};
    ks_error why = KS_ERROR_NONE;
    if (s->broken.text[0])
        return ks_error_set(err, "%s", s->broken.text);
    if (write_item(s, s->latents, 4, latent_size, s->latent_type, latent, &why))
        return broke(s, &why, err);
    if (i->images &&
        write_item(s, s->images, 4, image_size, H5T_STD_U8LE, image ? image : s->zeros, &why))
        return broke(s, &why, err);
    size_t waiting = (size_t)(s->rows - s->flushed);
    if (waiting == s->room) {
        s->room = s->room ? 2 * s->room : 16;
        s->pending = ks_realloc(s->pending, s->room, sizeof *s->pending);
    }
    s->pending[waiting] = *row;
    s->pending[waiting].check = ks_table_check(row);
    s->rows++;
    return 0;
}

int ks_shard_append(ks_shard *s, ks_row *row, const float *latent, const uint8_t *image,
                    ks_error *err)
{
    ks_table_row t;
    const ks_store_info *i = &s->info;
    const void *stored = latent ? (const void *)latent : s->zeros;
    size_t bytes = ks_info_latent_bytes(i);
    if (latent && i->float16) {
        ks_float16_from(latent, s->halves, bytes / 2);
        stored = s->halves;
    }
    row->digest = ks_hash(stored, bytes);
    if (ks_table_pack(&t, row, i, err))
        return ks_error_wrap(err, "%s", s->path);
    if (image && i->images) {
        ks_hash128 digest = ks_hash(image, ks_info_image_bytes(i));
        memcpy(t.picture, digest.byte, sizeof t.picture);
    }
    return ks_shard_append_stored(s, &t, stored, image, err);
}

static int flush_set(const ks_shard *s, hid_t set, ks_error *err)
{
    return set < 0 ? 0 : KS_H5(H5Dflush(set), err, "%s: cannot write", s->path);
}

int ks_shard_flush(ks_shard *s, ks_error *err)
{
    ks_error why = KS_ERROR_NONE;
    hsize_t size = s->rows;
    if (s->broken.text[0])
        return ks_error_set(err, "%s", s->broken.text);
    if (s->rows == s->flushed)
        return 0;
    if (flush_set(s, s->latents, &why) || flush_set(s, s->images, &why) ||
        KS_H5(H5Dset_extent(s->samples, &size), &why, "%s: cannot write", s->path) ||
        ks_h5_write_items(s->samples, s->path, s->row_type, s->flushed, s->rows - s->flushed,
                          s->pending, &why) ||
        flush_set(s, s->samples, &why))
        return broke(s, &why, err);
    s->flushed = s->rows;
    return 0;
}

int ks_shard_sync(ks_shard *s, ks_error *err)
{
    return ks_shard_flush(s, err) || ks_h5_sync(s->path, err) ? -1 : 0;
}

int ks_shard_close(ks_shard *s, ks_error *err)
{
    ks_error close_error = KS_ERROR_NONE;
    int status = ks_shard_flush(s, err);
    if (close_file(s, &close_error) && !status)
        status = ks_error_set(err, "%s", close_error.text);
    if (!status)
        status = ks_h5_sync(s->path, err);
    free_shard(s);
    return status;
}
