/* Inside of collecting: what merge and virtual share. */
#ifndef KS_STORE_COLLECT_H
#define KS_STORE_COLLECT_H

#include "store/places.h"
#include "store/source.h"
#include "store/store.h"

typedef struct ks_collection {
    const ks_store_info *info;
    ks_sources *sources;
    ks_places places;
    const char *path; /* of the file that is being made */
    hid_t file;
    uint64_t lost; /* rows whose latent or picture was not what its digest tells: missing in the file */
} ks_collection;

/* A data set [N, item...] of the collected file; list: creation properties. -1 and err. */
hid_t ks_collect_set(const ks_collection *c, const char *name, hid_t type, int rank,
                     const hsize_t *item, hid_t list, ks_error *err);

/* The row of a sample that no file has. */
void ks_collect_missing(const ks_collection *c, uint64_t index, ks_table_row *t);

/* Makes a row that one of the files holds the row of sample `index` of this sweep. */
void ks_collect_place(const ks_collection *c, uint64_t index, ks_table_row *t);

/* Fill c->file: all data sets but those of the labels. */
/* /checks of the new file: the tails of its rows. */
typedef struct ks_checks {
    hid_t set, type;
} ks_checks;
int ks_checks_new(ks_checks *checks, const ks_collection *c, ks_error *err);
/* Sets the rows' check, and writes their tails. */
int ks_checks_write(const ks_checks *checks, const ks_collection *c, uint64_t first, uint64_t count,
                    ks_table_row *rows, ks_error *err);
void ks_checks_close(ks_checks *checks);

int ks_collect_merge(ks_collection *c, ks_error *err);
int ks_collect_virtual(ks_collection *c, ks_error *err);

/* Readies the files of an output for a virtual data set: a collected OUT becomes a shard, and every
 * shard that only SWMR readers can open, or that holds another type than info tells, is written
 * anew. *lost grows by the damaged rows that were left out. */
int ks_adopt_all(const char *out, const ks_store_info *info, uint64_t *lost, ks_error *err);

/* Gives OUT the next free shard's name. */
int ks_adopt_out(const char *out, ks_error *err);

/* Stored latents from one type to the other. in and out do not overlap. */
void ks_adopt_convert(const void *in, bool in_float16, void *out, bool out_float16, size_t values);

#endif
