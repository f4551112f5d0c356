#include "base/hash.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/file.h"
#include "base/stop.h"

struct ks_hasher {
    XXH3_state_t *state;
};

static ks_hash128 canonical(XXH128_hash_t hash)
{
    XXH128_canonical_t form;
    XXH128_canonicalFromHash(&form, hash);
    ks_hash128 out;
    memcpy(out.byte, form.digest, sizeof out.byte);
    return out;
}

ks_hash128 ks_hash(const void *data, size_t size)
{
    return canonical(XXH3_128bits(data, size));
}

int ks_hash_equal(const ks_hash128 *a, const ks_hash128 *b)
{
    return memcmp(a->byte, b->byte, sizeof a->byte) == 0;
}

ks_hasher *ks_hasher_new(void)
{
    ks_hasher *h = ks_calloc(1, sizeof *h);
    h->state = XXH3_createState();
    if (!h->state)
        abort();
    XXH3_128bits_reset(h->state);
    return h;
}

/* value as 8 bytes, lowest first, on every machine. */
static void put_u64(uint8_t out[8], uint64_t value)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(value >> (8 * i));
}

void ks_hasher_add(ks_hasher *h, const void *data, size_t size)
{
    uint8_t length[8];
    put_u64(length, size);
    XXH3_128bits_update(h->state, length, sizeof length);
    if (size > 0)
        XXH3_128bits_update(h->state, data, size);
}

void ks_hasher_add_text(ks_hasher *h, const char *text)
{
    ks_hasher_add(h, text, strlen(text));
}

void ks_hasher_add_u64(ks_hasher *h, uint64_t value)
{
    uint8_t byte[8];
    put_u64(byte, value);
    ks_hasher_add(h, byte, sizeof byte);
}

void ks_hasher_add_f64(ks_hasher *h, double value)
{
    double same_zero = value + 0.0; /* -0.0 + 0.0 is 0.0 */
    uint64_t bits;
    memcpy(&bits, &same_zero, sizeof bits);
    ks_hasher_add_u64(h, bits);
}

ks_hash128 ks_hasher_end(ks_hasher *h)
{
    ks_hash128 out = canonical(XXH3_128bits_digest(h->state));
    XXH3_freeState(h->state);
    free(h);
    return out;
}

int ks_sha256(const void *data, size_t size, char hex[KS_SHA256_HEX], ks_error *err)
{
    enum { PIECE = 64 << 20 }; /* bytes between two looks for a signal */
    uint8_t digest[32];
    unsigned length = 0;
    EVP_MD_CTX *state = EVP_MD_CTX_new();
    bool good = state && EVP_DigestInit_ex(state, EVP_sha256(), NULL);
    int stopped = 0;
    for (size_t at = 0; at < size && good && !stopped; at += PIECE) {
        stopped = ks_stop_check("making the digest of a file", err);
        good = EVP_DigestUpdate(state, (const char *)data + at, size - at < PIECE ? size - at : PIECE);
    }
    good = good && EVP_DigestFinal_ex(state, digest, &length) && length == sizeof digest;
    EVP_MD_CTX_free(state);
    if (stopped)
        return -1;
    if (!good)
        return ks_error_set(err, "the system's OpenSSL cannot make a SHA-256 digest");
    ks_hex(digest, sizeof digest, hex);
    return 0;
}

void ks_hex(const uint8_t *data, size_t size, char *out)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++) {
        out[2 * i] = digit[data[i] >> 4];
        out[2 * i + 1] = digit[data[i] & 15];
    }
    out[2 * size] = '\0';
}
