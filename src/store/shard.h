/* Inside of the store: how a shard is fed with rows that are already in their stored form. */
#ifndef KS_STORE_SHARD_H
#define KS_STORE_SHARD_H

#include "store/store.h"
#include "store/table.h"

/* "DIR/shard-NNNN.h5"; free() it. */
char *ks_shard_path(const char *dir, int number);

/* The number in a file name of that form, else -1. */
int ks_shard_number(const char *name);

/* The number that follows the highest in dir (0 where there is no dir). */
int ks_shard_next(const char *dir);

/* ks_shard_create for a copy of another file, with that file's time of making (0: now). */
ks_shard *ks_shard_create_as(const char *dir, const ks_store_info *info, double created,
                             ks_error *err);

const char *ks_shard_file(const ks_shard *s);

/* Appends a row as it is (its check is set anew): latent as stored, image or NULL where there are
 * no images. */
int ks_shard_append_stored(ks_shard *s, const ks_table_row *row, const void *latent,
                           const uint8_t *image, ks_error *err);

#endif
