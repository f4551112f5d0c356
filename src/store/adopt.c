/* Making files fit for a virtual data set. HDF5 opens the files behind one without SWMR, and reads
 * zeros where it cannot: a shard that a kill has left is therefore written anew, from what its
 * digests vouch for. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "store/collect.h"
#include "store/float16.h"
#include "store/h5.h"
#include "store/info.h"
#include "store/shard.h"

enum { FLUSH_ROWS = 256 };

void ks_adopt_convert(const void *in, bool in_float16, void *out, bool out_float16, size_t values)
{
    if (in_float16 == out_float16)
        memcpy(out, in, values * (in_float16 ? 2 : 4));
    else if (in_float16)
        ks_float16_to(in, out, values);
    else
        ks_float16_from(in, out, values);
}

typedef struct copier {
    ks_sources *sources;
    bool float16;
    ks_shard *to;
    size_t values;
    void *latent, *converted;
    uint8_t *picture;
    uint64_t copied, lost;
} copier;

static int copy_row(void *self, int source, uint64_t place, const ks_table_row *t, ks_error *err)
{
    copier *c = self;
    ks_table_row row = *t;
    ks_source *s = ks_stop_check("collecting", err) ? NULL : ks_sources_use(c->sources, source, err);
    if (!s)
        return -1;
    if (!ks_source_latent_good(s, place, t) || ks_source_latents(s, place, 1, c->latent, NULL) ||
        ks_source_pictures(s, place, 1, c->picture, NULL) || !ks_source_is_picture(s, t, c->picture)) {
        c->lost++;
        return 0;
    }
    ks_adopt_convert(c->latent, s->float16, c->converted, c->float16, c->values);
    ks_hash128 digest = ks_hash(c->converted, c->values * (c->float16 ? 2 : 4));
    memcpy(row.digest, digest.byte, sizeof row.digest);
    if (ks_shard_append_stored(c->to, &row, c->converted, c->picture, err))
        return -1;
    return ++c->copied % FLUSH_ROWS ? 0 : ks_shard_flush(c->to, err);
}

/* The shard for the copy: of the source's own run, in the types of the present one. */
static ks_shard *make_copy(ks_sources *all, int i, const ks_store_info *info, ks_error *err)
{
    ks_source *s = ks_sources_use(all, i, err);
    ks_store_info *own = s ? ks_info_read(s->file, s->path, NULL, err) : NULL;
    if (!own)
        return NULL;
    own->float16 = info->float16;
    own->images = info->images;
    ks_shard *copy = ks_shard_create_as(all->dir, own, s->created, err);
    ks_store_info_free(own);
    return copy;
}

/* Writes a shard anew under the next free number and removes it. */
static int rewrite(ks_sources *all, int i, const ks_store_info *info, uint64_t *lost, ks_error *err)
{
    ks_source *s = &all->item[i];
    copier c = {.sources = all, .float16 = info->float16, .to = make_copy(all, i, info, err)};
    if (!c.to)
        return -1;
    char *path = ks_strdup(ks_shard_file(c.to));
    c.values = ks_source_latent_bytes(s) / (s->float16 ? 2 : 4);
    c.latent = ks_calloc(c.values, sizeof(float));
    c.converted = ks_calloc(c.values, sizeof(float));
    c.picture = ks_calloc(1, ks_source_picture_bytes(s));
    int status = ks_sources_walk(all, i, copy_row, &c, &c.lost, err);
    if (ks_shard_close(c.to, status ? NULL : err))
        status = -1;
    if (!status && c.lost)
        ks_log_warn("%s: %llu damaged rows are left out", s->path, (unsigned long long)c.lost);
    *lost += c.lost;
    if (unlink(status ? path : s->path) && !status)
        status = ks_error_set(err, "%s: cannot remove it after its copy %s: %s", s->path, path,
                              strerror(errno));
    free(c.latent);
    free(c.converted);
    free(c.picture);
    free(path);
    return status;
}

int ks_adopt_out(const char *out, ks_error *err)
{
    char *dir = ks_store_dir(out);
    int status = 0;
    if (mkdir(dir, 0777) && errno != EEXIST)
        status = ks_error_set(err, "%s: cannot make the folder: %s", dir, strerror(errno));
    char *path = ks_shard_path(dir, ks_shard_next(dir));
    if (!status && rename(out, path))
        status = ks_error_set(err, "%s: cannot rename it to %s: %s", out, path, strerror(errno));
    if (!status)
        status = ks_h5_sync_folder(path, err);
    free(path);
    free(dir);
    return status;
}

/* Whether OUT holds rows itself; -1 on error. */
static int out_has_rows(const char *out, ks_error *err)
{
    ks_sources *all = ks_sources_list(out, err);
    if (!all)
        return -1;
    int has = ks_sources_out(all) >= 0 && !all->item[0].is_virtual;
    ks_sources_free(all);
    return has;
}

int ks_adopt_all(const char *out, const ks_store_info *info, uint64_t *lost, ks_error *err)
{
    int status = out_has_rows(out, err);
    if (status > 0)
        status = ks_adopt_out(out, err);
    ks_sources *all = status ? NULL : ks_sources_list(out, err);
    if (!all)
        return -1;
    for (int i = 0; i < all->count && !status; i++) {
        const ks_source *s = &all->item[i];
        bool same = s->float16 == info->float16 && (s->images || !info->images);
        if (s->usable && s->number >= 0 && ks_source_fits(s, info) && !(s->plain && same))
            status = rewrite(all, i, info, lost, err);
    }
    ks_sources_free(all);
    return status;
}
