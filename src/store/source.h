/* Files that rows come from: the shards of an output, and OUT itself where rows lie in it. */
#ifndef KS_STORE_SOURCE_H
#define KS_STORE_SOURCE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/checked.h"
#include "store/store.h"
#include "store/table.h"

typedef struct ks_source {
    char *path;
    int number;  /* of the shard; -1: OUT */
    bool usable; /* it was opened and is an output of ksweep; all below holds only then */
    bool plain;  /* opens without SWMR too */
    bool is_virtual;
    ks_table_extent extent; /* of its rows, whether in one data set or two */
    int channels, height, width;
    bool float16, images;
    uint64_t rows; /* when it was first opened, */
    ks_file_mark mark; /* and the file just before that */
    double created;
    ks_hash128 sweep;  /* ks_info_sweep */
    bool passed_over;  /* ks_sources_walk leaves it out */
    uint64_t left_out; /* done rows that have no place in the sweep (ks_places_build) */
    hid_t file, samples, latents, pictures, checks, row_type, tail_type, latent_type; /* -1: closed, or not there */
    uint64_t used;
} ks_source;

typedef struct ks_sources {
    char *out, *dir;
    ks_source *item; /* OUT first where it is one, then shards by number */
    int count, unreadable;
    int open, open_limit;
    uint64_t clock;
} ks_sources;

/* Opens all of an output's files once. OUT is listed when it exists, a virtual one too. A shard
 * that cannot be read is logged and listed as not usable; an OUT that is not ksweep's is an
 * error. */
ks_sources *ks_sources_list(const char *out, ks_error *err);
void ks_sources_free(ks_sources *s);

/* Leaves no file open; ks_sources_use opens again. */
void ks_sources_close_all(ks_sources *s);

/* The number of OUT in the list: 0, or -1 when there is no OUT. */
int ks_sources_out(const ks_sources *s);

/* The usable source that was made last; -1 when there is none. OUT wins a tie: it was made from the
 * others. */
int ks_sources_newest(const ks_sources *s);

/* Source i, open; others may be closed for it. NULL and err when it is not usable any more. */
ks_source *ks_sources_use(ks_sources *s, int i, ks_error *err);

/* Rows [first, first + count) of an open source. latents: bytes as stored; pictures: zeros where
 * there are none. */
int ks_source_table(ks_source *s, uint64_t first, uint64_t count, ks_table_row *out, ks_error *err);
int ks_source_latents(ks_source *s, uint64_t first, uint64_t count, void *out, ks_error *err);
int ks_source_pictures(ks_source *s, uint64_t first, uint64_t count, uint8_t *out, ks_error *err);
size_t ks_source_latent_bytes(const ks_source *s);
size_t ks_source_picture_bytes(const ks_source *s); /* also where there are none */

/* Whether a row's check holds, where it has one. */
bool ks_source_row_whole(const ks_source *s, const ks_table_row *t);

/* Whether a row is whole: done or failed, and its check (where there is one) holds. The latent is
 * not looked at. */
bool ks_source_row_good(const ks_source *s, const ks_table_row *t);

/* Whether the latent that is stored at place has the row's digest. */
bool ks_source_latent_good(ks_source *s, uint64_t place, const ks_table_row *t);

/* Whether the picture that is stored at place has the row's digest; true where there is none. */
bool ks_source_picture_good(ks_source *s, uint64_t place, const ks_table_row *t);

/* Whether these bytes are the row's picture; true where the row does not tell. */
bool ks_source_is_picture(const ks_source *s, const ks_table_row *t, const void *picture);

/* Whether the file could have been written under info: the same latent shape. */
bool ks_source_fits(const ks_source *s, const ks_store_info *info);

/* Calls see for every good row of every usable source (of source `only`, when not -1) that is not a
 * virtual OUT, nor passed over; *bad grows by the rows that are not good. Ends with -1 when see fails. */
typedef int ks_see_row(void *self, int source, uint64_t place, const ks_table_row *t,
                       ks_error *err);
int ks_sources_walk(ks_sources *s, int only, ks_see_row *see, void *self, uint64_t *bad,
                    ks_error *err);

/* ks_store_tally of these files. */
int ks_sources_tally(ks_sources *s, double check_bytes, ks_tally *tally, ks_error *err);

#endif
