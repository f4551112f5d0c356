/* "virtual": the latents and pictures stay in the shards; the file maps each shard's rows, in their
 * own order, by one mapping a shard (HDF5's cost is linear in mappings). The table and the index
 * are real. */
#include <libgen.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "store/collect.h"
#include "store/h5.h"

enum { BLOCK_ROWS = 4096 };

/* Row r of the file is pick[r]: its sample is the slot. Samples that no file has follow. */
typedef struct row_order {
    ks_pick *pick;
    size_t count; /* picks */
} row_order;

/* The rows of one source that a run of picks names, as a selection in its data set. -1: HDF5's
 * stack tells. */
static hid_t source_rows(const row_order *o, size_t from, size_t n, int rank, const hsize_t *item,
                         uint64_t rows)
{
    hsize_t size[4] = {rows}, start[4] = {0}, count[4];
    for (int i = 1; i < rank; i++)
        size[i] = item[i - 1];
    memcpy(count, size, sizeof count);
    hid_t space = H5Screate_simple(rank, size, NULL);
    H5S_seloper_t join = H5S_SELECT_SET;
    for (size_t k = 0; k < n && space >= 0; k += (size_t)count[0]) {
        count[0] = ks_picks_run(o->pick + from, n, k);
        start[0] = ks_place_row(o->pick[from + k].code);
        if (H5Sselect_hyperslab(space, join, start, NULL, count, NULL) < 0)
            ks_h5_close(&space);
        join = H5S_SELECT_OR;
    }
    return space;
}

/* Maps picks [from, from + n), all of one source, to the same rows of the file. */
static int map_source(const ks_collection *c, const row_order *o, size_t from, size_t n,
                      const char *name, int rank, const hsize_t *item, hid_t list, ks_error *err)
{
    const ks_source *s = &c->sources->item[ks_place_source(o->pick[from].code)];
    hsize_t size[4] = {c->info->samples}, start[4] = {from}, count[4] = {n};
    for (int i = 1; i < rank; i++)
        size[i] = count[i] = item[i - 1];
    char *dir = ks_strdup(c->sources->dir), *file = ks_strdup(s->path);
    char *beside = ks_format("%s/%s", basename(dir), basename(file));
    hid_t there = source_rows(o, from, n, rank, item, s->rows),
          here = H5Screate_simple(rank, size, NULL);
    int status = 0;
    if (there < 0 || H5Sselect_hyperslab(here, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Pset_virtual(list, here, beside, name, there) < 0)
        status = ks_h5_fail(err, "%s: cannot map %s", c->path, s->path);
    ks_h5_close(&there);
    ks_h5_close(&here);
    free(beside);
    free(dir);
    free(file);
    return status;
}

static int make_virtual(const ks_collection *c, const row_order *o, const char *name, hid_t type,
                        const hsize_t item[3], ks_error *err)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE), set = -1;
    int status = 0;
    for (size_t from = 0, n; from < o->count && !status; from += n) {
        int source = ks_place_source(o->pick[from].code);
        for (n = 1; from + n < o->count && ks_place_source(o->pick[from + n].code) == source; n++) {
        }
        status = map_source(c, o, from, n, name, 4, item, list, err);
    }
    if (!status)
        set = ks_collect_set(c, name, type, 4, item, list, err);
    ks_h5_close(&list);
    status = set < 0 ? -1 : 0;
    ks_h5_close(&set);
    return status;
}

/* Rows [first, first + count) of the picks, in file order. */
static int read_rows(const ks_collection *c, const row_order *o, size_t first, size_t count,
                     ks_table_row *t, ks_error *err)
{
    for (size_t k = 0, n; k < count; k += n) {
        const ks_pick *pick = &o->pick[first + k];
        n = ks_picks_run(o->pick + first, count, k);
        ks_source *s = ks_sources_use(c->sources, ks_place_source(pick->code), err);
        if (!s || ks_source_table(s, ks_place_row(pick->code), n, t + k, err))
            return -1;
        for (size_t i = 0; i < n; i++)
            ks_collect_place(c, pick[i].slot, &t[k + i]);
    }
    return 0;
}

/* The table; row_of_index is filled on the way. */
static int write_table(const ks_collection *c, const row_order *o, uint64_t *row_of_index,
                       ks_error *err)
{
    hid_t file_type = ks_table_file_type(KS_TABLE_BARE), type = ks_table_memory_type(KS_TABLE_BARE);
    hid_t set = ks_collect_set(c, "samples", file_type, 1, NULL, H5P_DEFAULT, err);
    ks_table_row *t = ks_calloc(BLOCK_ROWS, sizeof *t);
    uint64_t missing = 0; /* the next sample to look at for the rows after the picks */
    ks_checks checks = {-1, -1};
    int status = set < 0 ? -1 : ks_checks_new(&checks, c, err);
    for (uint64_t first = 0, count; first < c->info->samples && !status; first += count) {
        count = first < o->count ? o->count - first : c->info->samples - first;
        count = count < BLOCK_ROWS ? count : BLOCK_ROWS;
        if (first < o->count) {
            status = read_rows(c, o, (size_t)first, (size_t)count, t, err);
        } else {
            for (uint64_t k = 0; k < count; k++, missing++) {
                while (c->places.at[missing])
                    missing++;
                ks_collect_missing(c, missing, &t[k]);
            }
        }
        for (uint64_t k = 0; k < count && !status; k++)
            row_of_index[t[k].index] = first + k;
        if (!status)
            status = ks_h5_write_items(set, c->path, type, first, count, t, err) ||
                             ks_checks_write(&checks, c, first, count, t, err)
                         ? -1
                         : 0;
    }
    free(t);
    ks_checks_close(&checks);
    ks_h5_close(&set);
    ks_h5_close(&type);
    ks_h5_close(&file_type);
    return status;
}

static int write_index(const ks_collection *c, const uint64_t *row_of_index, ks_error *err)
{
    hid_t set = ks_collect_set(c, "row_of_index", H5T_STD_U64LE, 1, NULL, H5P_DEFAULT, err);
    int status = set < 0 ? -1
                         : KS_H5(H5Dwrite(set, H5T_NATIVE_UINT64, H5S_ALL, H5S_ALL, H5P_DEFAULT,
                                          row_of_index),
                                 err, "%s: cannot write", c->path);
    ks_h5_close(&set);
    return status;
}

int ks_collect_virtual(ks_collection *c, ks_error *err)
{
    const ks_store_info *i = c->info;
    const hsize_t latent[3] = {(hsize_t)i->channels, (hsize_t)i->height, (hsize_t)i->width};
    const hsize_t image[3] = {(hsize_t)i->height * 8, (hsize_t)i->width * 8, 3};
    row_order o = {malloc((size_t)(c->places.found + 1) * sizeof *o.pick), 0};
    uint64_t *row_of_index = malloc((size_t)(i->samples + 1) * sizeof *row_of_index);
    hid_t type = ks_h5_float_type(i->float16);
    int status = -1;
    if (!o.pick || !row_of_index) {
        ks_error_set(err, "%s: no memory for the order of %llu rows", c->path,
                     (unsigned long long)i->samples);
        goto cleanup;
    }
    o.count = ks_picks_make(c->places.at, (size_t)i->samples, o.pick);
    if (make_virtual(c, &o, "latents", type, latent, err) ||
        (i->images && make_virtual(c, &o, "images", H5T_STD_U8LE, image, err)) ||
        write_table(c, &o, row_of_index, err) || write_index(c, row_of_index, err))
        goto cleanup;
    status = 0;
cleanup:
    ks_h5_close(&type);
    free(row_of_index);
    free(o.pick);
    return status;
}
