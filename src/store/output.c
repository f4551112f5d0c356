/* Reading an output: OUT itself, or, while shards are newer than it, all files together in sweep
 * order. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "store/float16.h"
#include "store/h5.h"
#include "store/info.h"
#include "store/places.h"
#include "store/source.h"
#include "store/store.h"

enum { BLOCK_ROWS = 1024 };

struct ks_output {
    ks_sources *sources;
    ks_store_info *info;
    int out; /* the source that OUT is, when it is read alone; else -1 and places tells */
    ks_places places;
    uint64_t rows;
    ks_table_row *table; /* rows [table_first, table_first + table_count) */
    uint64_t table_first, table_count;
    uint64_t *index; /* the same of row_of_index */
    uint64_t index_first, index_count;
    void *stored; /* one latent as stored */
};

static int open_rows(ks_output *o, ks_error *err)
{
    int from = ks_sources_newest(o->sources);
    if (from < 0)
        return ks_error_set(err, "%s: there is no output: neither this file nor a shard in %s",
                            o->sources->out, o->sources->dir);
    ks_source *s = ks_sources_use(o->sources, from, err);
    o->info = s ? ks_info_read(s->file, s->path, NULL, err) : NULL;
    if (!o->info)
        return -1;
    o->out = s->number < 0 ? from : -1;
    o->rows = o->out >= 0 ? s->rows : o->info->samples;
    o->stored = ks_calloc(1, ks_source_latent_bytes(s) * 2);
    if (o->out >= 0)
        return 0;
    ks_hash128 sweep = s->sweep;
    return ks_places_build(&o->places, o->sources, o->info, &sweep, NULL, NULL, err);
}

ks_output *ks_output_open(const char *out, ks_error *err)
{
    ks_output *o = ks_calloc(1, sizeof *o);
    o->table = ks_calloc(BLOCK_ROWS, sizeof *o->table);
    o->index = ks_calloc(BLOCK_ROWS, sizeof *o->index);
    o->sources = ks_sources_list(out, err);
    if (o->sources && !open_rows(o, err))
        return o;
    ks_output_close(o);
    return NULL;
}

void ks_output_close(ks_output *o)
{
    if (!o)
        return;
    ks_places_free(&o->places);
    ks_store_info_free(o->info);
    ks_sources_free(o->sources);
    free(o->table);
    free(o->index);
    free(o->stored);
    free(o);
}

const ks_store_info *ks_output_info(const ks_output *o)
{
    return o->info;
}

uint64_t ks_output_rows(const ks_output *o)
{
    return o->rows;
}

/* Rows [first, first + count) of the shards' common order into o->table. */
static int gather(ks_output *o, uint64_t first, uint64_t count, ks_error *err)
{
    ks_pick pick[BLOCK_ROWS];
    ks_table_row *read = ks_calloc((size_t)count, sizeof *read);
    int status = 0;
    memset(o->table, 0, (size_t)count * sizeof *o->table);
    for (uint64_t i = 0; i < count; i++)
        o->table[i].index = first + i;
    size_t picks = ks_picks_make(o->places.at + first, (size_t)count, pick);
    for (size_t from = 0, n; from < picks && !status; from += n) {
        n = ks_picks_run(pick, picks, from);
        ks_source *s = ks_sources_use(o->sources, ks_place_source(pick[from].code), err);
        status = !s || ks_source_table(s, ks_place_row(pick[from].code), n, read, err) ? -1 : 0;
        for (size_t k = 0; k < n && !status; k++)
            o->table[pick[from + k].slot] = read[k];
    }
    free(read);
    return status;
}

static int check_row(const ks_output *o, uint64_t r, ks_error *err)
{
    if (r < o->rows)
        return 0;
    return ks_error_set(err, "%s: there is no row %llu: it has %llu rows, counted from 0",
                        o->sources->out, (unsigned long long)r, (unsigned long long)o->rows);
}

/* Has row r in o->table. */
static int load_table(ks_output *o, uint64_t r, ks_error *err)
{
    if (check_row(o, r, err))
        return -1;
    if (r >= o->table_first && r - o->table_first < o->table_count)
        return 0;
    uint64_t first = r - r % BLOCK_ROWS,
             count = o->rows - first < BLOCK_ROWS ? o->rows - first : BLOCK_ROWS;
    ks_source *s = o->out < 0 ? NULL : ks_sources_use(o->sources, o->out, err);
    o->table_count = 0;
    if (o->out >= 0 ? !s || ks_source_table(s, first, count, o->table, err)
                    : gather(o, first, count, err))
        return -1;
    o->table_first = first;
    o->table_count = count;
    return 0;
}

int ks_output_row(ks_output *o, uint64_t r, ks_row *row, ks_error *err)
{
    if (load_table(o, r, err))
        return -1;
    ks_table_unpack(row, &o->table[r - o->table_first], o->info);
    return 0;
}

static int load_index(ks_output *o, uint64_t first, uint64_t count, ks_error *err)
{
    ks_source *s = ks_sources_use(o->sources, o->out, err);
    hid_t set;
    if (!s || (set = ks_h5_open_set(s->file, s->path, "row_of_index", err)) < 0)
        return -1;
    int status = ks_h5_read_items(set, s->path, H5T_NATIVE_UINT64, first, count, o->index, sizeof *o->index, err);
    ks_h5_close(&set);
    o->index_first = first;
    o->index_count = status ? 0 : count;
    return status;
}

int ks_output_find(ks_output *o, uint64_t index, uint64_t *r, ks_error *err)
{
    *r = index;
    if (check_row(o, index, err))
        return ks_error_wrap(err, "sample %llu", (unsigned long long)index);
    if (o->out < 0)
        return 0;
    uint64_t first = index - index % BLOCK_ROWS,
             count = o->rows - first < BLOCK_ROWS ? o->rows - first : BLOCK_ROWS;
    if ((!o->index_count || first != o->index_first) && load_index(o, first, count, err))
        return -1;
    *r = o->index[index - first];
    return check_row(o, *r, err);
}

/* Where row r's data lie: *source NULL when no file has the row. */
static int locate(ks_output *o, uint64_t r, ks_source **source, uint64_t *place, ks_error *err)
{
    *source = NULL;
    if (check_row(o, r, err))
        return -1;
    if (o->out < 0 && !o->places.at[r])
        return 0;
    *place = o->out < 0 ? ks_place_row(o->places.at[r]) : r;
    *source = ks_sources_use(o->sources, o->out < 0 ? ks_place_source(o->places.at[r]) : o->out,
                             err);
    return *source ? 0 : -1;
}

int ks_output_latent(ks_output *o, uint64_t r, float *latent, ks_error *err)
{
    const ks_store_info *i = o->info;
    size_t values = (size_t)i->channels * (size_t)i->height * (size_t)i->width;
    uint64_t place;
    ks_source *s;
    if (locate(o, r, &s, &place, err))
        return -1;
    if (!s)
        memset(latent, 0, values * sizeof *latent);
    else if (ks_source_latents(s, place, 1, o->stored, err))
        return -1;
    else if (s->float16)
        ks_float16_to(o->stored, latent, values);
    else
        memcpy(latent, o->stored, values * sizeof *latent);
    return 0;
}

int ks_output_image(ks_output *o, uint64_t r, uint8_t *rgb, ks_error *err)
{
    uint64_t place;
    ks_source *s;
    if (!o->info->images)
        return ks_error_set(err, "%s: it was made without images (output.images)", o->sources->out);
    if (locate(o, r, &s, &place, err))
        return -1;
    if (s)
        return ks_source_pictures(s, place, 1, rgb, err);
    memset(rgb, 0, ks_info_image_bytes(o->info));
    return 0;
}

/* What is wrong with row r; NULL: nothing. s: NULL for a row that no file has. */
static const char *what_is_bad(ks_output *o, uint64_t r, ks_source *s, uint64_t place,
                               const ks_table_row *t)
{
    uint64_t back;
    if (!s)
        return NULL;
    if (!ks_source_row_whole(s, t))
        return "its fields fail their check";
    if (o->out >= 0 && (ks_output_find(o, t->index, &back, NULL) || back != r))
        return "/row_of_index does not lead to it";
    if (t->status != KS_DONE)
        return NULL;
    if (!ks_source_latent_good(s, place, t))
        return "the latent fails its digest";
    return ks_source_picture_good(s, place, t) ? NULL : "the picture fails its digest";
}

int ks_output_verify(ks_output *o, uint64_t *checked, uint64_t *bad, ks_error *err)
{
    *checked = *bad = 0;
    for (uint64_t r = 0; r < o->rows; r++) {
        uint64_t place;
        ks_source *s;
        if (load_table(o, r, err) || locate(o, r, &s, &place, err))
            return -1;
        const ks_table_row *t = &o->table[r - o->table_first];
        const char *what = what_is_bad(o, r, s, place, t);
        *checked += t->status == KS_DONE || what;
        *bad += what != NULL;
        if (what)
            ks_log_error("%s: row %llu (sample %llu): %s", s ? s->path : o->sources->out,
                         (unsigned long long)r, (unsigned long long)t->index, what);
    }
    return 0;
}

int ks_output_tally(ks_output *o, double check_bytes, ks_tally *tally, ks_error *err)
{
    return ks_sources_tally(o->sources, check_bytes, tally, err);
}
