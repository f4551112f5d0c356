#include "sampling/normals.h"

#include <math.h>
#include <string.h>

#include "sampling/simd.h"

/* Logarithm, sine and cosine are own series in double, so that results neither depend on the C
 * library's choice for this machine nor on the compiler, and the loops run on vectors. Their
 * errors are below 2e-10 relative (log), 1e-11 (sin) and 5e-13 absolute (cos): as a float, such a
 * value is the nearest one but for some 0.2 %, which are off by one last bit. */

#define TWO_PI 6.28318530717958648

enum { PAIRS = KS_NORMAL_BLOCKS * KS_NORMAL_BLOCK / 2 };
_Static_assert((int)KS_PHILOX_THREADS == (int)PAIRS, "one chunk size for both generators");

KS_LOOP uint64_t bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

KS_LOOP double of_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* An integer below 2^32 as double, without a conversion instruction that SSE2 lacks. */
KS_LOOP double small_integer(uint64_t i)
{
    return of_bits(i | 0x4330000000000000u) - 0x1p52;
}

/* ln x of a normal x in (0, 2): x = 2^e f with f in [sqrt 1/2, sqrt 2), and
 * ln f = 2 artanh s = 2 (s + s^3/3 + s^5/5 + ...) with s = (f - 1) / (f + 1), |s| <= 0.1716. */
KS_LOOP double log_series(double x)
{
    const uint64_t root_half = 0x3fe6a09e667f3bcdu, one = 0x3ff0000000000000u;
    const uint64_t mantissa = 0x000fffffffffffffu;
    uint64_t shifted = bits_of(x) + (one - root_half);
    double exponent = small_integer(shifted >> 52) - 1023.0;
    double f = of_bits((shifted & mantissa) + root_half);
    double s = (f - 1.0) / (f + 1.0), q = s * s;
    double tail = 1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11));
    double sum = 1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * tail));
    return exponent * 0.69314718055994531 + 2.0 * s * sum;
}

/* sin and cos of an angle in [0, 7]: a quarter turn k is taken off, the rest |x| <= pi/4 goes
 * through the Taylor series, and k swaps them and sets their signs. */
KS_LOOP void sin_cos_series(double angle, double *sine, double *cosine)
{
    const double round_to_integer = 0x1.8p52;
    double turns = angle * 0.63661977236758134 + round_to_integer;
    uint64_t k = bits_of(turns);
    double x = angle - (turns - round_to_integer) * 1.5707963267948966, q = x * x;
    double s = 1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 + q * (-1.0 / 39916800)));
    double c = -1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800 + q * (1.0 / 479001600)));
    uint64_t a = bits_of(x + x * q * (-1.0 / 6 + q * s));
    uint64_t b = bits_of(1.0 + q * (-0.5 + q * (1.0 / 24 + q * c)));
    uint64_t swap = (a ^ b) & (0u - (k & 1u));
    *sine = of_bits(a ^ swap ^ ((k & 2u) << 62));
    *cosine = of_bits(b ^ swap ^ (((k + 1u) & 2u) << 62));
}

/* Box-Muller: radius sqrt(-2 ln u) at an angle, both generators' float32 roundings after each
 * function included. u in (0, 1], angle * unit in [0, 7]. */
KS_LOOP void box_muller(const float *restrict u, const float *restrict angle, double unit,
                        float *restrict sine, float *restrict cosine, int count)
{
    for (int i = 0; i < count; i++) {
        double s, c;
        sin_cos_series(angle[i] * unit, &s, &c);
        float radius = sqrtf(-2.0f * (float)log_series(u[i]));
        sine[i] = radius * (float)s;
        cosine[i] = radius * (float)c;
    }
}

/* Uniforms are k * 2^-24; 1 - uniform is exact, 2 pi * uniform is rounded to float. */
KS_LOOP void normal_blocks_loop(const uint32_t *restrict words, float *restrict out, int blocks)
{
    float u[PAIRS], angle[PAIRS], sine[PAIRS], cosine[PAIRS];
    const int32_t range = 1 << 24;
    for (int b = 0; b < blocks; b++)
        for (int j = 0; j < 8; j++) {
            int32_t first = (int32_t)(words[16 * b + j] & 0xffffffu);
            int32_t second = (int32_t)(words[16 * b + 8 + j] & 0xffffffu);
            u[8 * b + j] = (float)(range - first) * 0x1p-24f;
            angle[8 * b + j] = (float)TWO_PI * ((float)second * 0x1p-24f);
        }
    box_muller(u, angle, 1.0, sine, cosine, 8 * blocks);
    for (int b = 0; b < blocks; b++) {
        memcpy(out + 16 * b, cosine + 8 * b, 8 * sizeof *out);
        memcpy(out + 16 * b + 8, sine + 8 * b, 8 * sizeof *out);
    }
}

KS_DISPATCH(normal_blocks, (const uint32_t *words, float *out, int blocks), (words, out, blocks))

void ks_normal_blocks(const uint32_t *words, float *out, int blocks)
{
    normal_blocks(words, out, blocks);
}

/* The nearest float not above a positive normal double. */
KS_LOOP float toward_zero(double x)
{
    return (float)of_bits(bits_of(x) & ~(uint64_t)0x1fffffff);
}

/* The nearest float: both halves and the upper one's shift are exact, so that the sum alone
 * rounds. */
KS_LOOP float word_as_float(uint32_t word)
{
    return (float)(int32_t)(word >> 16) * 65536.0f + (float)(int32_t)(word & 0xffffu);
}

/* The GPU's steps: a word as float, one fused multiplication and addition (exact in float or
 * double before it is rounded), and for its sine the angle in turns, which its multiplication
 * rounds toward zero. */
KS_LOOP void pair_loop(const uint32_t *restrict radius_word, const uint32_t *restrict angle_word,
                       float *restrict sine, float *restrict cosine, int count)
{
    const double step = (double)(float)(TWO_PI * 0x1p-32), per_radian = (double)(float)(1 / TWO_PI);
    float u[PAIRS], turns[PAIRS];
    for (int i = 0; i < count; i++) {
        double a = (double)word_as_float(angle_word[i]);
        u[i] = word_as_float(radius_word[i]) * 0x1p-32f + 0x1p-33f;
        turns[i] = toward_zero((double)(float)(a * step + 0.5 * step) * per_radian);
    }
    box_muller(u, turns, TWO_PI, sine, cosine, count);
}

KS_DISPATCH(pair, (const uint32_t *radii, const uint32_t *angles, float *sine, float *cosine,
                   int n), (radii, angles, sine, cosine, n))

void ks_philox_normals(uint64_t seed, uint64_t block, uint32_t first, int count, int rows,
                       float out[4][KS_PHILOX_THREADS])
{
    uint32_t words[4][KS_PHILOX_THREADS];
    ks_philox_words(seed, block, first, count, words);
    for (int row = 0; row < rows; row += 2)
        pair(words[row], words[row + 1], out[row], out[row + 1], count);
}
