/* One row of /samples as files hold it, and its way to and from ks_row. */
#ifndef KS_STORE_TABLE_H
#define KS_STORE_TABLE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/store.h"

enum { KS_NAME_SIZE = 32 }; /* bytes of a sampler's or scheduler's name, NUL-padded */

/* The order and the sizes are the file's (no padding). check: the first 8 bytes of the digest of
 * all before it; shards have it, collected files do not. */
typedef struct __attribute__((packed)) ks_table_row {
    uint64_t index, seed;
    uint32_t steps;
    double cfg, denoise;
    char sampler_name[KS_NAME_SIZE], scheduler[KS_NAME_SIZE];
    uint32_t positive, negative, latent_image, batch;
    uint8_t status;
    uint32_t nfe;
    uint8_t key[16], digest[16];
    uint64_t check;
} ks_table_row;

/* New compound types, with or without the check; -1 without memory. In memory a row is a
 * ks_table_row in both cases, in a file nothing is left free for a check that is not there. */
hid_t ks_table_memory_type(bool check);
hid_t ks_table_file_type(bool check);

/* Whether an open data set's type has every field (and the check). */
bool ks_table_type_fits(hid_t type, bool check);

uint64_t ks_table_check(const ks_table_row *t);

/* Names come from info's lists; a place outside of them, or a name too long, is an error. */
int ks_table_pack(ks_table_row *t, const ks_row *row, const ks_store_info *info, ks_error *err);

/* A name that info does not list gives -1. */
void ks_table_unpack(ks_row *row, const ks_table_row *t, const ks_store_info *info);

#endif
