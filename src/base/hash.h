/* Digests. XXH3-128 where only accidents matter (sample keys, rows of the store), SHA-256 where a
 * file's identity is told to other people (the model). */
#ifndef KS_BASE_HASH_H
#define KS_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct ks_hash128 {
    uint8_t byte[16]; /* XXH3-128 in its canonical (big-endian) form */
} ks_hash128;

ks_hash128 ks_hash(const void *data, size_t size);
int ks_hash_equal(const ks_hash128 *a, const ks_hash128 *b);

/* A digest of several fields, each length-prefixed, so that ("ab","c") != ("a","bc"). */
typedef struct ks_hasher ks_hasher;
ks_hasher *ks_hasher_new(void); /* aborts when there is no memory */
void ks_hasher_add(ks_hasher *h, const void *data, size_t size);
void ks_hasher_add_text(ks_hasher *h, const char *text);
void ks_hasher_add_u64(ks_hasher *h, uint64_t value);
void ks_hasher_add_f64(ks_hasher *h, double value); /* by its bits; -0.0 counts as 0.0 */
ks_hash128 ks_hasher_end(ks_hasher *h);             /* also frees h */

enum { KS_SHA256_HEX = 65 };
/* SHA-256 of memory as 64 lower-case hex digits and a NUL. A stop that is asked for ends it (-1). */
int ks_sha256(const void *data, size_t size, char hex[KS_SHA256_HEX], ks_error *err);

/* 2 * size lower-case hex digits and a NUL into out. */
void ks_hex(const uint8_t *data, size_t size, char *out);

#endif
