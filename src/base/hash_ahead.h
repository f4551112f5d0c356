/* A SHA-256 that a thread makes while its caller does something else: gigabytes take seconds. */
#ifndef KS_BASE_HASH_AHEAD_H
#define KS_BASE_HASH_AHEAD_H

#include "base/error.h"
#include "base/hash.h"

typedef struct ks_hash_ahead ks_hash_ahead;

/* data must stay until the end. NULL where no thread is to be had: hash without one. */
ks_hash_ahead *ks_hash_ahead_start(const void *data, size_t size);

/* Waits for the digest and frees. */
int ks_hash_ahead_end(ks_hash_ahead *h, char hex[KS_SHA256_HEX], ks_error *err);

/* Gives it up and frees; NULL is allowed. */
void ks_hash_ahead_drop(ks_hash_ahead *h);

#endif
