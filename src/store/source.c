#include "store/source.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "store/h5.h"
#include "store/info.h"
#include "store/shard.h"

enum { WALK_ROWS = 1024, SPARE_FILES = 64, MOST_OPEN = 4096 };

static void close_source(ks_source *s)
{
    ks_h5_close(&s->row_type);
    ks_h5_close(&s->tail_type);
    ks_h5_close(&s->checks);
    ks_h5_close(&s->latent_type);
    ks_h5_close(&s->samples);
    ks_h5_close(&s->latents);
    ks_h5_close(&s->pictures);
    if (s->file >= 0)
        H5Fclose(s->file);
    s->file = -1;
    H5Eclear2(H5E_DEFAULT);
}

static int64_t first_size(hid_t set)
{
    hsize_t size[8] = {0};
    hid_t space = H5Dget_space(set);
    int rank = H5Sget_simple_extent_ndims(space);
    int64_t first = -1;
    if (rank >= 1 && rank <= 8 && H5Sget_simple_extent_dims(space, size, NULL) == rank)
        first = (int64_t)size[0];
    ks_h5_close(&space);
    return first;
}

static bool layout_is_virtual(hid_t set)
{
    hid_t list = H5Dget_create_plist(set);
    bool is = H5Pget_layout(list) == H5D_VIRTUAL;
    ks_h5_close(&list);
    return is;
}

/* How far the table's type reaches. */
static ks_table_extent extent_of(hid_t type)
{
    return ks_table_type_fits(type, KS_TABLE_PICTURE) ? KS_TABLE_PICTURE
           : ks_table_type_fits(type, KS_TABLE_CHECK) ? KS_TABLE_CHECK
                                                      : KS_TABLE_BARE;
}

/* The tails of a collected file's rows; files of the first versions have none. */
static int open_checks(ks_source *s, ks_error *err)
{
    if (H5Lexists(s->file, "checks", H5P_DEFAULT) <= 0)
        return 0;
    if ((s->checks = ks_h5_open_set(s->file, s->path, "checks", err)) < 0)
        return -1;
    hid_t type = H5Dget_type(s->checks);
    bool pictures = type >= 0 && H5Tget_class(type) == H5T_COMPOUND && H5Tget_member_index(type, "image_digest") >= 0;
    s->extent = pictures ? KS_TABLE_PICTURE : KS_TABLE_CHECK;
    s->tail_type = ks_table_tail_type(s->extent);
    ks_h5_close(&type);
    H5Eclear2(H5E_DEFAULT);
    return 0;
}

/* The data sets of an open file and how many rows all of them have. */
static int open_sets(ks_source *s, ks_error *err)
{
    hid_t type = -1;
    int status = -1;
    if ((s->latents = ks_h5_open_set(s->file, s->path, "latents", err)) < 0 ||
        (s->samples = ks_h5_open_set(s->file, s->path, "samples", err)) < 0 ||
        KS_H5(type = H5Dget_type(s->samples), err, "%s: cannot read /samples", s->path))
        goto cleanup;
    if (!ks_table_type_fits(type, KS_TABLE_BARE)) {
        ks_error_set(err, "%s: /samples is not ksweep's table: fields are missing", s->path);
        goto cleanup;
    }
    s->extent = extent_of(type);
    s->row_type = ks_table_memory_type(s->extent);
    if (s->extent == KS_TABLE_BARE && open_checks(s, err))
        goto cleanup;
    s->images = H5Lexists(s->file, "images", H5P_DEFAULT) > 0;
    if (s->images && (s->pictures = ks_h5_open_set(s->file, s->path, "images", err)) < 0)
        goto cleanup;
    s->is_virtual = layout_is_virtual(s->latents);
    s->latent_type = ks_h5_float_type(s->float16);
    status = 0;
cleanup:
    ks_h5_close(&type);
    return status;
}

static int count_rows(ks_source *s, ks_error *err)
{
    int64_t table = first_size(s->samples), latents = first_size(s->latents);
    int64_t pictures = s->images ? first_size(s->pictures) : table;
    if (table < 0 || latents < 0 || pictures < 0)
        return ks_error_set(err, "%s: its data sets have no rows", s->path);
    int64_t rows = table < latents ? table : latents;
    s->rows = (uint64_t)(rows < pictures ? rows : pictures);
    if (layout_is_virtual(s->samples))
        return ks_error_set(err, "%s: /samples is not ksweep's table: it is a virtual data set", s->path);
    return ks_h5_check_claim(s->samples, s->path, "samples", s->rows, err);
}

static int reopen(ks_source *s, ks_error *err)
{
    s->file = ks_h5_open(s->path, &s->plain, err);
    if (s->file < 0)
        return -1;
    if (open_sets(s, err)) {
        close_source(s);
        return -1;
    }
    return 0;
}

/* The first opening: also all that is known of the file afterwards. */
static int open_first(ks_source *s, ks_error *err)
{
    s->mark = ks_file_mark_of(s->path);
    hid_t file = ks_h5_open(s->path, &s->plain, err);
    ks_store_info *info = file < 0 ? NULL : ks_info_read(file, s->path, &s->created, err);
    int status = info ? 0 : -1;
    if (!status) {
        s->channels = info->channels;
        s->height = info->height;
        s->width = info->width;
        s->float16 = info->float16;
        s->sweep = ks_info_sweep(info);
    }
    ks_store_info_free(info);
    s->file = file;
    if (!status)
        status = open_sets(s, err) || count_rows(s, err) ? -1 : 0;
    if (status)
        close_source(s);
    return status;
}

static void add(ks_sources *s, char *path, int number)
{
    s->item = ks_realloc(s->item, (size_t)s->count + 1, sizeof *s->item);
    s->item[s->count++] = (ks_source){.path = path,
                                      .number = number,
                                      .file = -1,
                                      .samples = -1,
                                      .latents = -1,
                                      .pictures = -1,
                                      .checks = -1,
                                      .row_type = -1,
                                      .tail_type = -1,
                                      .latent_type = -1};
}

static int by_number(const void *a, const void *b)
{
    int x = ((const ks_source *)a)->number, y = ((const ks_source *)b)->number;
    return (x > y) - (x < y);
}

static int list_files(ks_sources *s, ks_error *err)
{
    struct stat st;
    if (!stat(s->out, &st))
        add(s, ks_strdup(s->out), -1);
    else if (errno != ENOENT)
        return ks_error_set(err, "%s: cannot open: %s", s->out, strerror(errno));
    DIR *dir = opendir(s->dir);
    if (!dir)
        return errno == ENOENT
                   ? 0
                   : ks_error_set(err, "%s: cannot read the folder: %s", s->dir, strerror(errno));
    for (struct dirent *e; (e = readdir(dir));) {
        int number = ks_shard_number(e->d_name);
        if (number >= 0)
            add(s, ks_format("%s/%s", s->dir, e->d_name), number);
    }
    closedir(dir);
    if (s->count > 0)
        qsort(s->item, (size_t)s->count, sizeof *s->item, by_number);
    return 0;
}

static int file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur > MOST_OPEN + SPARE_FILES)
        return MOST_OPEN;
    return limit.rlim_cur > SPARE_FILES + 8 ? (int)limit.rlim_cur - SPARE_FILES : 8;
}

static void close_oldest(ks_sources *s)
{
    ks_source *oldest = NULL;
    for (int i = 0; i < s->count; i++)
        if (s->item[i].file >= 0 && (!oldest || s->item[i].used < oldest->used))
            oldest = &s->item[i];
    if (oldest) {
        close_source(oldest);
        s->open--;
    }
}

/* Opens every file once. *why: what is wrong with OUT; empty where nothing is. */
static void open_all(ks_sources *s, ks_error *why)
{
    for (int i = 0; i < s->count; i++) {
        ks_source *source = &s->item[i];
        ks_error wrong = KS_ERROR_NONE;
        if (s->open == s->open_limit)
            close_oldest(s);
        source->used = ++s->clock;
        source->usable = !open_first(source, &wrong);
        s->open += source->usable;
        if (!source->usable && source->number < 0)
            *why = wrong;
        else if (!source->usable)
            ks_log_once(KS_LOG_WARN, "this shard is left out: %s", wrong.text);
        s->unreadable += !source->usable;
    }
}

/* Fails for an OUT that cannot be read, and says what its shards are still good for. */
static int refuse_out(const ks_sources *s, const ks_error *why, ks_error *err)
{
    if (s->count == s->unreadable || access(s->out, R_OK))
        return ks_error_set(err, "%s", why->text);
    return ks_error_set(err, "%s; there are shards in %s: move this file away and run the job again, which takes over what they hold",
                        why->text, s->dir);
}

ks_sources *ks_sources_list(const char *out, ks_error *err)
{
    ks_error why = KS_ERROR_NONE;
    ks_h5_start();
    ks_sources *s = ks_calloc(1, sizeof *s);
    s->out = ks_strdup(out);
    s->dir = ks_store_dir(out);
    s->open_limit = file_limit();
    if (list_files(s, err))
        goto failed;
    open_all(s, &why);
    if (!why.text[0] || !refuse_out(s, &why, err))
        return s;
failed:
    ks_sources_free(s);
    return NULL;
}

void ks_sources_free(ks_sources *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->count; i++) {
        close_source(&s->item[i]);
        free(s->item[i].path);
    }
    free(s->item);
    free(s->out);
    free(s->dir);
    free(s);
}

void ks_sources_close_all(ks_sources *s)
{
    for (int i = 0; i < s->count; i++)
        close_source(&s->item[i]);
    s->open = 0;
}

int ks_sources_out(const ks_sources *s)
{
    return s->count && s->item[0].number < 0 ? 0 : -1;
}

int ks_sources_newest(const ks_sources *s)
{
    int best = -1;
    for (int i = 0; i < s->count; i++)
        if (s->item[i].usable && (best < 0 || s->item[i].created > s->item[best].created))
            best = i;
    return best;
}

ks_source *ks_sources_use(ks_sources *s, int i, ks_error *err)
{
    ks_source *source = &s->item[i];
    source->used = ++s->clock;
    if (source->file >= 0)
        return source;
    if (s->open >= s->open_limit)
        close_oldest(s);
    if (reopen(source, err))
        return NULL;
    s->open++;
    return source;
}

static int add_tails(ks_source *s, uint64_t first, uint64_t count, ks_table_row *out, ks_error *err)
{
    size_t size = ks_table_tail_size(s->extent);
    uint8_t *tails = ks_calloc((size_t)count, size);
    int status = ks_h5_read_items(s->checks, s->path, s->tail_type, first, count, tails, size, err);
    for (uint64_t k = 0; k < count && !status; k++)
        memcpy((uint8_t *)&out[k] + offsetof(ks_table_row, check), tails + k * size, size);
    free(tails);
    return status;
}

int ks_source_table(ks_source *s, uint64_t first, uint64_t count, ks_table_row *out, ks_error *err)
{
    memset(out, 0, (size_t)count * sizeof *out);
    if (ks_h5_read_items(s->samples, s->path, s->row_type, first, count, out, sizeof *out, err))
        return -1;
    return s->checks < 0 ? 0 : add_tails(s, first, count, out, err);
}

int ks_source_latents(ks_source *s, uint64_t first, uint64_t count, void *out, ks_error *err)
{
    return ks_h5_read_items(s->latents, s->path, s->latent_type, first, count, out, ks_source_latent_bytes(s), err);
}

int ks_source_pictures(ks_source *s, uint64_t first, uint64_t count, uint8_t *out, ks_error *err)
{
    if (s->images)
        return ks_h5_read_items(s->pictures, s->path, H5T_NATIVE_UINT8, first, count, out, ks_source_picture_bytes(s), err);
    memset(out, 0, (size_t)count * ks_source_picture_bytes(s));
    return 0;
}

static ks_store_info shape_of(const ks_source *s)
{
    return (ks_store_info){
        .channels = s->channels, .height = s->height, .width = s->width, .float16 = s->float16};
}

size_t ks_source_latent_bytes(const ks_source *s)
{
    ks_store_info shape = shape_of(s);
    return ks_info_latent_bytes(&shape);
}

size_t ks_source_picture_bytes(const ks_source *s)
{
    ks_store_info shape = shape_of(s);
    return ks_info_image_bytes(&shape);
}

bool ks_source_row_whole(const ks_source *s, const ks_table_row *t)
{
    return s->extent == KS_TABLE_BARE || t->check == ks_table_check(t);
}

bool ks_source_row_good(const ks_source *s, const ks_table_row *t)
{
    return (t->status == KS_DONE || t->status == KS_FAILED) && ks_source_row_whole(s, t);
}

bool ks_source_is_picture(const ks_source *s, const ks_table_row *t, const void *picture)
{
    static const uint8_t unknown[sizeof t->picture];
    if (s->extent < KS_TABLE_PICTURE || !memcmp(t->picture, unknown, sizeof unknown))
        return true;
    ks_hash128 digest = ks_hash(picture, ks_source_picture_bytes(s));
    return !memcmp(digest.byte, t->picture, sizeof t->picture);
}

bool ks_source_picture_good(ks_source *s, uint64_t place, const ks_table_row *t)
{
    if (!s->images || s->extent < KS_TABLE_PICTURE)
        return true;
    uint8_t *picture = ks_calloc(1, ks_source_picture_bytes(s));
    bool good = !ks_source_pictures(s, place, 1, picture, NULL) && ks_source_is_picture(s, t, picture);
    free(picture);
    return good;
}

bool ks_source_latent_good(ks_source *s, uint64_t place, const ks_table_row *t)
{
    size_t bytes = ks_source_latent_bytes(s);
    void *latent = ks_calloc(1, bytes);
    bool good = !ks_source_latents(s, place, 1, latent, NULL);
    ks_hash128 digest = ks_hash(latent, bytes);
    free(latent);
    return good && !memcmp(digest.byte, t->digest, sizeof t->digest);
}

bool ks_source_fits(const ks_source *s, const ks_store_info *info)
{
    return s->channels == info->channels && s->height == info->height && s->width == info->width;
}

/* A row of a collected file that was never rendered is not a bad one. */
static bool never_rendered(const ks_source *s, const ks_table_row *t)
{
    return s->number < 0 && t->status == KS_MISSING && ks_source_row_whole(s, t);
}

static int walk_block(const ks_source *source, int i, uint64_t first, uint64_t count,
                      const ks_table_row *t, ks_see_row *see, void *self, uint64_t *bad,
                      ks_error *err)
{
    for (uint64_t k = 0; k < count; k++) {
        if (ks_source_row_good(source, &t[k])) {
            if (see(self, i, first + k, &t[k], err))
                return -1;
        } else if (!never_rendered(source, &t[k])) {
            ++*bad;
        }
    }
    return 0;
}

static int walk_source(ks_sources *s, int i, ks_table_row *block, ks_see_row *see, void *self,
                       uint64_t *bad, ks_error *err)
{
    uint64_t rows = s->item[i].rows;
    for (uint64_t first = 0; first < rows; first += WALK_ROWS) {
        ks_error why = KS_ERROR_NONE;
        uint64_t count = rows - first < WALK_ROWS ? rows - first : WALK_ROWS;
        ks_source *source = ks_sources_use(s, i, &why);
        if (!source || ks_source_table(source, first, count, block, &why)) {
            ks_log_warn("%llu rows are left out: %s", (unsigned long long)count, why.text);
            *bad += count;
        } else if (walk_block(source, i, first, count, block, see, self, bad, err)) {
            return -1;
        }
    }
    return 0;
}

int ks_sources_walk(ks_sources *s, int only, ks_see_row *see, void *self, uint64_t *bad,
                    ks_error *err)
{
    int status = 0;
    ks_table_row *block = ks_calloc(WALK_ROWS, sizeof *block);
    for (int i = 0; i < s->count && !status; i++)
        if (s->item[i].usable && !s->item[i].is_virtual && !s->item[i].passed_over && (only < 0 || only == i))
            status = walk_source(s, i, block, see, self, bad, err);
    free(block);
    return status;
}
