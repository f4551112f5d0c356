/* One file from an output's shards: made beside OUT under a temporary name, brought to disk, then
 * renamed. */
#include "store/collect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "store/h5.h"
#include "store/info.h"

static const uint64_t MERGE_BYTES = (uint64_t)8 << 30; /* "auto" merges up to this size */

hid_t ks_collect_set(const ks_collection *c, const char *name, hid_t type, int rank,
                     const hsize_t *item, hid_t list, ks_error *err)
{
    hsize_t size[4] = {c->info->samples};
    for (int i = 1; i < rank; i++)
        size[i] = item[i - 1];
    hid_t space = H5Screate_simple(rank, size, NULL), set;
    if ((set = H5Dcreate2(c->file, name, type, space, H5P_DEFAULT, list, H5P_DEFAULT)) < 0)
        ks_h5_fail(err, "%s: cannot make /%s", c->path, name);
    ks_h5_close(&space);
    return set;
}

/* A sample's places on the axes positive, negative and latent_image follow from its index: they are
 * the slowest of the grid, unless info says how far apart their values stand. */
static void place_labels(const ks_store_info *info, uint64_t index, ks_table_row *t)
{
    const int values[3] = {info->positives, info->negatives, info->latents};
    uint32_t place[3];
    uint64_t inner = info->samples;
    for (int i = 0; i < 3; i++) {
        uint64_t count = (uint64_t)(values[i] ? values[i] : 1);
        inner /= count;
        uint64_t stride = info->label_stride[i] ? info->label_stride[i] : inner;
        place[i] = stride ? (uint32_t)(index / stride % count) : 0;
    }
    t->positive = place[0];
    t->negative = place[1];
    t->latent_image = place[2];
}

void ks_collect_missing(const ks_collection *c, uint64_t index, ks_table_row *t)
{
    memset(t, 0, sizeof *t);
    ks_collect_place(c, index, t);
}

void ks_collect_place(const ks_collection *c, uint64_t index, ks_table_row *t)
{
    t->index = index;
    place_labels(c->info, index, t);
}

int ks_checks_new(ks_checks *checks, const ks_collection *c, ks_error *err)
{
    ks_table_extent extent = ks_table_extent_of(c->info);
    hid_t type = ks_table_tail_type(extent);
    checks->type = ks_table_tail_of_row_type(extent);
    checks->set = ks_collect_set(c, "checks", type, 1, NULL, H5P_DEFAULT, err);
    ks_h5_close(&type);
    return checks->set < 0 ? -1 : 0;
}

int ks_checks_write(const ks_checks *checks, const ks_collection *c, uint64_t first, uint64_t count,
                    ks_table_row *rows, ks_error *err)
{
    for (uint64_t k = 0; k < count; k++)
        rows[k].check = ks_table_check(&rows[k]);
    return ks_h5_write_items(checks->set, c->path, checks->type, first, count, rows, err);
}

void ks_checks_close(ks_checks *checks)
{
    ks_h5_close(&checks->set);
    ks_h5_close(&checks->type);
}

static int make_file(ks_collection *c, bool is_virtual, ks_error *err)
{
    hid_t list = ks_h5_file_access();
    H5Pset_libver_bounds(list, H5F_LIBVER_V18, is_virtual ? H5F_LIBVER_LATEST : H5F_LIBVER_V18);
    c->file = H5Fcreate(c->path, H5F_ACC_TRUNC, H5P_DEFAULT, list);
    int status = KS_H5(c->file, err, "%s: cannot make the file", c->path);
    ks_h5_close(&list);
    if (status)
        return -1;
    return ks_info_write(c->file, c->path, c->info, 0, err) ||
                   ks_info_publish(c->file, c->path, c->info, err)
               ? -1
               : 0;
}

/* The temporary file, complete and on disk; removed when anything fails. */
static int write_file(ks_collection *c, bool is_virtual, ks_error *err)
{
    ks_error close_error = KS_ERROR_NONE;
    int status = make_file(c, is_virtual, err);
    if (!status)
        status = is_virtual ? ks_collect_virtual(c, err) : ks_collect_merge(c, err);
    if (c->file >= 0 && KS_H5(H5Fclose(c->file), &close_error, "%s: cannot write", c->path) &&
        !status)
        status = ks_error_set(err, "%s", close_error.text);
    if (!status)
        status = ks_h5_sync(c->path, err);
    if (status)
        unlink(c->path);
    return status;
}

static int publish(const ks_collection *c, ks_error *err)
{
    int out = ks_sources_out(c->sources);
    if (out >= 0 && c->sources->item[out].left_out && ks_adopt_out(c->sources->out, err))
        return -1;
    if (rename(c->path, c->sources->out))
        return ks_error_set(err, "%s: cannot rename it to %s: %s", c->path, c->sources->out,
                            strerror(errno));
    return ks_h5_sync_folder(c->sources->out, err);
}

static bool is_empty_file(const char *path)
{
    struct stat st;
    return !stat(path, &st) && st.st_size == 0;
}

/* After a merge: shards whose rows are all in OUT go. What another sweep could still want, or
 * somebody could still repair, stays. */
static void remove_shards(ks_sources *s)
{
    ks_sources_close_all(s);
    for (int i = 0; i < s->count; i++) {
        const ks_source *shard = &s->item[i];
        if (shard->number < 0)
            continue;
        if (shard->usable ? !shard->left_out : is_empty_file(shard->path)) {
            if (unlink(shard->path))
                ks_log_warn("%s: cannot remove it: %s", shard->path, strerror(errno));
        } else if (shard->usable) {
            ks_log_info("%s stays: %llu of its samples are not in this sweep", shard->path,
                        (unsigned long long)shard->left_out);
        }
    }
    ks_checked_remove(s->dir);
    rmdir(s->dir);
}

/* Whether OUT already is what a merge would make: every sample in its own row, of the same job. */
static bool is_merged(const ks_collection *c)
{
    int out = ks_sources_out(c->sources);
    const ks_source *s = out < 0 ? NULL : &c->sources->item[out];
    ks_hash128 sweep = ks_info_sweep(c->info);
    if (!s || s->is_virtual || s->rows != c->info->samples || !ks_hash_equal(&s->sweep, &sweep) ||
        s->float16 != c->info->float16 || s->images != c->info->images)
        return false;
    for (uint64_t i = 0; i < c->info->samples; i++) {
        uint64_t at = c->places.at[i];
        if (at && (ks_place_source(at) != out || ks_place_row(at) != i))
            return false;
    }
    return true;
}

/* Whether mode means a virtual data set; -1 when it is no mode. */
static int mode_is_virtual(const char *mode, const ks_store_info *info, ks_error *err)
{
    uint64_t row = ks_info_latent_bytes(info) + (info->images ? ks_info_image_bytes(info) : 0);
    if (!mode || !strcmp(mode, "auto"))
        return info->samples > MERGE_BYTES / row;
    if (strcmp(mode, "merge") && strcmp(mode, "virtual"))
        return ks_error_set(
            err, "collect: \"%s\" is unknown: \"auto\", \"merge\" or \"virtual\" is wanted", mode);
    return !strcmp(mode, "virtual");
}

static int collect(ks_collection *c, bool is_virtual, ks_error *err)
{
    if (!is_virtual && is_merged(c)) {
        remove_shards(c->sources);
        return 0;
    }
    if (write_file(c, is_virtual, err))
        return -1;
    if (c->lost)
        ks_log_warn("%s: %llu samples are missing because their rows were damaged: the next run "
                    "renders them", c->sources->out, (unsigned long long)c->lost);
    if (publish(c, err))
        return -1;
    if (!is_virtual)
        remove_shards(c->sources);
    return c->lost > 0;
}

int ks_store_collect(const char *out, const ks_store_info *info, const char *mode,
                     int64_t (*index_of)(void *self, const ks_row *row), void *self, ks_error *err)
{
    ks_h5_start();
    if (ks_info_check(info, err))
        return -1;
    int is_virtual = mode_is_virtual(mode, info, err), status = -1;
    uint64_t lost = 0;
    if (is_virtual < 0 || (is_virtual && ks_adopt_all(out, info, &lost, err)))
        return -1;
    ks_hash128 sweep = ks_info_sweep(info);
    char *path = ks_format("%s.part", out);
    ks_collection c = {
        .info = info, .path = path, .file = -1, .sources = ks_sources_list(out, err)};
    if (c.sources && !ks_places_build(&c.places, c.sources, info, &sweep, index_of, self, err)) {
        c.lost = c.places.found < info->samples ? lost : 0;
        status = collect(&c, is_virtual, err);
    }
    ks_places_free(&c.places);
    ks_sources_free(c.sources);
    free(path);
    return status;
}
