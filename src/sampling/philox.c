#include "sampling/philox.h"

#include "backend/generators.h"
#include "sampling/simd.h"

static void philox_plain(uint64_t seed, uint64_t block, uint32_t first, int count,
                         uint32_t words[4][KS_PHILOX_THREADS])
{
    for (int i = 0; i < count; i++) {
        uint32_t c[4];
        ks_philox(seed, block, first + (uint32_t)i, c);
        for (int k = 0; k < 4; k++)
            words[k][i] = c[k];
    }
}

#if defined(__x86_64__)
#include <immintrin.h>

/* Counters in the lower halves of 64-bit lanes, which is all that the multiplication reads: the
 * compiler's own vectors spend half their time moving 32-bit lanes about. Upper halves hold
 * rubbish. */
KS_AVX2 static inline void round_avx2(__m256i c[4], __m256i k0, __m256i k1)
{
    __m256i p0 = _mm256_mul_epu32(c[0], _mm256_set1_epi64x(KS_PHILOX_MULTIPLIER_0));
    __m256i p1 = _mm256_mul_epu32(c[2], _mm256_set1_epi64x(KS_PHILOX_MULTIPLIER_1));
    c[0] = _mm256_xor_si256(_mm256_srli_epi64(p1, 32), _mm256_xor_si256(c[1], k0));
    c[1] = p1;
    c[2] = _mm256_xor_si256(_mm256_srli_epi64(p0, 32), _mm256_xor_si256(c[3], k1));
    c[3] = p0;
}

/* Eight counters a turn: those of even place and those of odd place. */
KS_AVX2 static void philox_avx2(uint64_t seed, uint64_t block, uint32_t first, int count,
                                uint32_t words[4][KS_PHILOX_THREADS])
{
    const __m256i b0 = _mm256_set1_epi64x((int64_t)block), b1 = _mm256_srli_epi64(b0, 32);
    const __m256i low = _mm256_set1_epi64x(0xffffffff), none = _mm256_setzero_si256();
    for (int i = 0; i < count; i += 8) {
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        __m256i at = _mm256_add_epi64(_mm256_set1_epi64x((int64_t)first + i),
                                      _mm256_set_epi64x(6, 4, 2, 0));
        __m256i even[4] = {b0, b1, at, none};
        __m256i odd[4] = {b0, b1, _mm256_add_epi64(at, _mm256_set1_epi64x(1)), none};
        for (int round = 0; round < KS_PHILOX_ROUNDS; round++, k0 += KS_PHILOX_WEYL_0, k1 += KS_PHILOX_WEYL_1) {
            __m256i key0 = _mm256_set1_epi64x(k0), key1 = _mm256_set1_epi64x(k1);
            round_avx2(even, key0, key1);
            round_avx2(odd, key0, key1);
        }
        for (int k = 0; k < 4; k++) {
            __m256i lower = _mm256_and_si256(even[k], low), upper = _mm256_slli_epi64(odd[k], 32);
            _mm256_storeu_si256((__m256i *)&words[k][i], _mm256_or_si256(lower, upper));
        }
    }
}

void ks_philox_words(uint64_t seed, uint64_t block, uint32_t first, int count,
                     uint32_t words[4][KS_PHILOX_THREADS])
{
    (ks_cpu_has_avx2() ? philox_avx2 : philox_plain)(seed, block, first, count, words);
}
#else
void ks_philox_words(uint64_t seed, uint64_t block, uint32_t first, int count,
                     uint32_t words[4][KS_PHILOX_THREADS])
{
    philox_plain(seed, block, first, count, words);
}
#endif
