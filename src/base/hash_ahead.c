#include "base/hash_ahead.h"

#include <openssl/evp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

enum { PIECE = 16 << 20 }; /* between two looks at whether it is still wanted */

struct ks_hash_ahead {
    pthread_t thread;
    const char *data;
    size_t size;
    atomic_bool dropped;
    bool good;
    uint8_t digest[32];
};

static void *run(void *self)
{
    ks_hash_ahead *h = self;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL);
    for (size_t at = 0, piece; good && at < h->size && !atomic_load(&h->dropped); at += piece) {
        piece = h->size - at < PIECE ? h->size - at : PIECE;
        good = EVP_DigestUpdate(context, h->data + at, piece);
    }
    h->good = good && EVP_DigestFinal_ex(context, h->digest, NULL);
    EVP_MD_CTX_free(context);
    return NULL;
}

ks_hash_ahead *ks_hash_ahead_start(const void *data, size_t size)
{
    ks_hash_ahead *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->data = data;
    h->size = size;
    if (pthread_create(&h->thread, NULL, run, h) == 0)
        return h;
    free(h);
    return NULL;
}

int ks_hash_ahead_end(ks_hash_ahead *h, char hex[KS_SHA256_HEX], ks_error *err)
{
    pthread_join(h->thread, NULL);
    bool good = h->good;
    if (good)
        ks_hex(h->digest, sizeof h->digest, hex);
    free(h);
    return good ? 0 : ks_error_set(err, "the system's OpenSSL cannot make a SHA-256 digest");
}

void ks_hash_ahead_drop(ks_hash_ahead *h)
{
    if (!h)
        return;
    atomic_store(&h->dropped, true);
    pthread_join(h->thread, NULL);
    free(h);
}
