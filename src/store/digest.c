#include <stdlib.h>

#include "base/file.h"
#include "store/float16.h"
#include "store/store.h"

ks_hash128 ks_latent_digest(const float *latent, size_t count, bool float16)
{
    if (!float16)
        return ks_hash(latent, count * sizeof *latent);
    uint16_t *half = ks_calloc(count, sizeof *half);
    ks_float16_from(latent, half, count);
    ks_hash128 digest = ks_hash(half, count * sizeof *half);
    free(half);
    return digest;
}
