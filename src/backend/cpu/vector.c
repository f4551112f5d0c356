#include "backend/cpu/vector.h"

#include <stddef.h>

extern const ks_vector ks_vector_base;
#ifdef KS_VECTOR_X86
extern const ks_vector ks_vector_avx2, ks_vector_avx512;
#endif

/* Best first; the last is usable everywhere. */
static const ks_vector *const tables[] = {
#ifdef KS_VECTOR_X86
    &ks_vector_avx512,
    &ks_vector_avx2,
#endif
    &ks_vector_base,
};

const ks_vector *ks_vector_table(int number)
{
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        if (tables[i]->usable() && number-- == 0)
            return tables[i];
    return NULL;
}
