/* "merge": all rows in sweep order, block by block. Within a block the rows are read in the order
 * of the files, so that each file is visited once and neighbours are read together. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "store/collect.h"
#include "store/h5.h"
#include "store/info.h"

enum { BLOCK_BYTES = 16 << 20, MOST_ROWS = 4096 };

typedef struct block {
    size_t rows; /* at most, and how many of them are in use */
    size_t count;
    size_t latent, image; /* bytes of a row in the new file; image 0: none */
    ks_table_row *table;  /* [rows] of the new file */
    uint8_t *latents, *images;
    ks_pick *pick;
    ks_table_row *read_table; /* [rows] as a file gives them */
    uint8_t *read_latents, *read_images;
} block;

static int block_new(block *b, const ks_collection *c, ks_error *err)
{
    *b = (block){.latent = ks_info_latent_bytes(c->info)};
    b->image = c->info->images ? ks_info_image_bytes(c->info) : 0;
    size_t floats = (size_t)c->info->channels * (size_t)c->info->height * (size_t)c->info->width *
                    sizeof(float);
    b->rows = BLOCK_BYTES / (b->latent + b->image);
    b->rows = b->rows < 1 ? 1 : b->rows > MOST_ROWS ? MOST_ROWS : b->rows;
    b->table = ks_calloc(b->rows, sizeof *b->table);
    b->read_table = ks_calloc(b->rows, sizeof *b->table);
    b->pick = ks_calloc(b->rows, sizeof *b->pick);
    b->latents = malloc(b->rows * b->latent);
    b->read_latents = malloc(b->rows * floats);
    b->images = b->image ? malloc(b->rows * b->image) : NULL;
    b->read_images = b->image ? malloc(b->rows * b->image) : NULL;
    if (!b->latents || !b->read_latents || (b->image && (!b->images || !b->read_images)))
        return ks_error_set(err, "%s: no memory for a block of %zu rows", c->path, b->rows);
    return 0;
}

static void block_free(block *b)
{
    free(b->table);
    free(b->latents);
    free(b->images);
    free(b->pick);
    free(b->read_table);
    free(b->read_latents);
    free(b->read_images);
}

/* Row k of what was read becomes row `slot` of the block, unless its latent is damaged. */
static void take_row(ks_collection *c, block *b, const ks_source *s, size_t k, uint64_t slot)
{
    size_t bytes = ks_source_latent_bytes(s);
    const uint8_t *latent = b->read_latents + k * bytes;
    ks_table_row *t = &b->table[slot];
    uint64_t index = t->index;
    ks_hash128 digest = ks_hash(latent, bytes);
    if (memcmp(digest.byte, b->read_table[k].digest, sizeof digest.byte)) {
        ks_log_warn("%s: the latent of sample %llu fails its digest", s->path,
                    (unsigned long long)index);
        c->lost++;
        return;
    }
    if (b->image && !ks_source_is_picture(s, &b->read_table[k], b->read_images + k * b->image)) {
        ks_log_warn("%s: the picture of sample %llu fails its digest", s->path,
                    (unsigned long long)index);
        c->lost++;
        return;
    }
    *t = b->read_table[k];
    ks_collect_place(c, index, t);
    uint8_t *out = b->latents + slot * b->latent;
    ks_adopt_convert(latent, s->float16, out, c->info->float16, bytes / (s->float16 ? 2 : 4));
    if (s->float16 != c->info->float16) {
        digest = ks_hash(out, b->latent);
        memcpy(t->digest, digest.byte, sizeof t->digest);
    }
    if (b->image)
        memcpy(b->images + slot * b->image, b->read_images + k * b->image, b->image);
}

static int read_run(ks_collection *c, block *b, const ks_pick *pick, size_t n, ks_source **source,
                    ks_error *err)
{
    ks_source *s = ks_sources_use(c->sources, ks_place_source(pick->code), err);
    uint64_t row = ks_place_row(pick->code);
    *source = s;
    if (!s || ks_source_table(s, row, n, b->read_table, err) ||
        ks_source_latents(s, row, n, b->read_latents, err))
        return -1;
    return b->image ? ks_source_pictures(s, row, n, b->read_images, err) : 0;
}

/* Neighbouring rows of one file. Where they cannot be read together, each is tried alone: what
 * fails is lost. */
static void take_run(ks_collection *c, block *b, const ks_pick *pick, size_t n)
{
    ks_error why = KS_ERROR_NONE;
    ks_source *s;
    if (!read_run(c, b, pick, n, &s, &why)) {
        for (size_t k = 0; k < n; k++)
            take_row(c, b, s, k, pick[k].slot);
    } else if (n > 1) {
        for (size_t k = 0; k < n; k++)
            take_run(c, b, pick + k, 1);
    } else {
        ks_log_warn("a row is lost: %s", why.text);
        c->lost++;
    }
}

static void fill_block(ks_collection *c, block *b, uint64_t first)
{
    for (size_t i = 0; i < b->count; i++)
        ks_collect_missing(c, first + i, &b->table[i]);
    memset(b->latents, 0, b->count * b->latent);
    if (b->image)
        memset(b->images, 0, b->count * b->image);
    size_t picks = ks_picks_make(c->places.at + first, b->count, b->pick);
    for (size_t from = 0, n; from < picks; from += n) {
        n = ks_picks_run(b->pick, picks, from);
        take_run(c, b, b->pick + from, n);
    }
}

typedef struct merged_sets {
    hid_t latents, images, samples, rows, latent_type, row_type;
    ks_checks checks;
} merged_sets;

static int make_sets(const ks_collection *c, merged_sets *m, ks_error *err)
{
    const ks_store_info *i = c->info;
    const hsize_t latent[3] = {(hsize_t)i->channels, (hsize_t)i->height, (hsize_t)i->width};
    const hsize_t image[3] = {(hsize_t)i->height * 8, (hsize_t)i->width * 8, 3};
    hid_t file_row = ks_table_file_type(KS_TABLE_BARE);
    *m = (merged_sets){-1, -1, -1, -1, ks_h5_float_type(i->float16), ks_table_memory_type(KS_TABLE_BARE), {-1, -1}};
    m->latents = ks_collect_set(c, "latents", m->latent_type, 4, latent, H5P_DEFAULT, err);
    if (m->latents >= 0)
        m->samples = ks_collect_set(c, "samples", file_row, 1, NULL, H5P_DEFAULT, err);
    if (m->samples >= 0)
        m->rows = ks_collect_set(c, "row_of_index", H5T_STD_U64LE, 1, NULL, H5P_DEFAULT, err);
    if (m->rows >= 0 && i->images)
        m->images = ks_collect_set(c, "images", H5T_STD_U8LE, 4, image, H5P_DEFAULT, err);
    ks_h5_close(&file_row);
    if (m->rows >= 0 && ks_checks_new(&m->checks, c, err))
        return -1;
    return m->rows < 0 || (i->images && m->images < 0) ? -1 : 0;
}

static void close_sets(merged_sets *m)
{
    hid_t *all[] = {&m->latents, &m->images, &m->samples, &m->rows, &m->latent_type, &m->row_type};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ks_h5_close(all[i]);
    ks_checks_close(&m->checks);
}

/* Rows [from, from + n) of a block: latents and pictures. */
static int write_data(const ks_collection *c, const block *b, const merged_sets *m, uint64_t first,
                      size_t from, size_t n, ks_error *err)
{
    if (ks_h5_write_items(m->latents, c->path, m->latent_type, first + from, n,
                          b->latents + from * b->latent, err))
        return -1;
    return b->image ? ks_h5_write_items(m->images, c->path, H5T_STD_U8LE, first + from, n,
                                        b->images + from * b->image, err)
                    : 0;
}

/* Missing rows leave holes in the file, which read as zeros. */
static int write_block(const ks_collection *c, const block *b, const merged_sets *m, uint64_t first,
                       ks_error *err)
{
    uint64_t row_of_index[MOST_ROWS];
    int status = 0;
    for (size_t i = 0; i < b->count; i++)
        row_of_index[i] = first + i;
    if (ks_h5_write_items(m->samples, c->path, m->row_type, first, b->count, b->table, err) ||
        ks_checks_write(&m->checks, c, first, b->count, b->table, err) ||
        ks_h5_write_items(m->rows, c->path, H5T_NATIVE_UINT64, first, b->count, row_of_index, err))
        return -1;
    for (size_t from = 0, n; from < b->count && !status; from += n) {
        bool missing = b->table[from].status == KS_MISSING;
        for (n = 1; from + n < b->count && (b->table[from + n].status == KS_MISSING) == missing;
             n++) {}
        status = missing ? 0 : write_data(c, b, m, first, from, n, err);
    }
    return status;
}

int ks_collect_merge(ks_collection *c, ks_error *err)
{
    block b = {0};
    merged_sets m;
    int status = make_sets(c, &m, err) || block_new(&b, c, err) ? -1 : 0;
    for (uint64_t first = 0; first < c->info->samples && !status; first += b.rows) {
        uint64_t left = c->info->samples - first;
        b.count = left < b.rows ? (size_t)left : b.rows;
        status = ks_stop_check("collecting", err);
        if (status)
            break;
        fill_block(c, &b, first);
        status = write_block(c, &b, &m, first, err);
    }
    block_free(&b);
    close_sets(&m);
    return status;
}
