/* One row of /samples as files hold it, and its way to and from ks_row. */
#ifndef KS_STORE_TABLE_H
#define KS_STORE_TABLE_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "store/store.h"

enum { KS_NAME_SIZE = 32 }; /* bytes of a sampler's or scheduler's name, NUL-padded */

/* The order and the sizes are the file's (no padding). check: the first 8 bytes of the digest of
 * all before it. picture: the digest of the picture's bytes, zeros where it is not known; only in
 * files with images. These two, the tail, stand in the table of a shard, and in a data set of their
 * own, /checks, in a collected file. */
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
    uint8_t picture[16];
} ks_table_row;

/* How much of the tail there is. */
typedef enum ks_table_extent { KS_TABLE_BARE, KS_TABLE_CHECK, KS_TABLE_PICTURE } ks_table_extent;

/* New compound types; -1 without memory. In memory a row is a ks_table_row in all cases, in a file
 * nothing is left free for fields that are not there. */
hid_t ks_table_memory_type(ks_table_extent extent);
hid_t ks_table_file_type(ks_table_extent extent);

/* The tail alone, as /checks has it, and as it is taken from a row in memory to be written there. */
hid_t ks_table_tail_type(ks_table_extent extent);
hid_t ks_table_tail_of_row_type(ks_table_extent extent);
size_t ks_table_tail_size(ks_table_extent extent);

/* Whether an open data set's type has every field up to this extent. */
bool ks_table_type_fits(hid_t type, ks_table_extent extent);

/* The extent of what is written now. */
ks_table_extent ks_table_extent_of(const ks_store_info *info);

uint64_t ks_table_check(const ks_table_row *t);

/* Names come from info's lists; a place outside of them, or a name too long, is an error. */
int ks_table_pack(ks_table_row *t, const ks_row *row, const ks_store_info *info, ks_error *err);

/* A name that info does not list gives -1. */
void ks_table_unpack(ks_row *row, const ks_table_row *t, const ks_store_info *info);

#endif
