/* The arithmetic of torch's random normals, word by word and pair by pair: what every backend runs, so that noise has the
 * same bits wherever it is made.
 *
 * Whoever includes this is compiled without fused multiply-adds (-ffp-contract=off, nvcc -fmad=false), and with square roots
 * and divisions rounded as IEEE 754 says.
 *
 * CPU generator: MT19937 (Matsumoto & Nishimura, "Mersenne Twister", ACM TOMACS 8, 1998) and blocks of 16 normals. CUDA
 * generator: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Normals: Box & Muller,
 * "A note on the generation of random normal deviates", Annals of Mathematical Statistics 29 (1958). */
#ifndef KS_BACKEND_GENERATORS_H
#define KS_BACKEND_GENERATORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __CUDACC__
#define KS_ELEMENT static __device__ __forceinline__
#else
#define KS_ELEMENT static inline __attribute__((always_inline))
#endif

#define KS_TWO_PI 6.28318530717958648

enum {
    KS_MT_WORDS = 624,   /* MT19937's state */
    KS_MT_SHIFT = 397,   /* m of the recurrence */
    KS_NORMAL_BLOCK = 16 /* elements of a Box-Muller block of torch's CPU generator */
};

/* --- MT19937 --- */

/* Word i > 0 of the 2002 initialisation ("init_genrand"), from the one before it. */
KS_ELEMENT uint32_t ks_mt_seed_next(uint32_t before, uint32_t i)
{
    return 1812433253u * (before ^ (before >> 30)) + i;
}

/* The upper bit of one word and the lower 31 of the next, times the recurrence's matrix A. */
KS_ELEMENT uint32_t ks_mt_times_a(uint32_t upper, uint32_t lower)
{
    uint32_t y = (upper & 0x80000000u) | (lower & 0x7fffffffu);
    return (y >> 1) ^ (0x9908b0dfu & (0u - (y & 1u)));
}

KS_ELEMENT uint32_t ks_mt_temper(uint32_t y)
{
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    return y ^ (y >> 18);
}

/* --- Philox --- */

#define KS_PHILOX_MULTIPLIER_0 0xd2511f53u
#define KS_PHILOX_MULTIPLIER_1 0xcd9e8d57u
#define KS_PHILOX_WEYL_0 0x9e3779b9u
#define KS_PHILOX_WEYL_1 0xbb67ae85u

enum { KS_PHILOX_ROUNDS = 10 };

/* The four words of counter (block, thread), 64 bits each, under the key `seed`. */
KS_ELEMENT void ks_philox(uint64_t seed, uint64_t block, uint32_t thread, uint32_t c[4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    c[0] = (uint32_t)block;
    c[1] = (uint32_t)(block >> 32);
    c[2] = thread;
    c[3] = 0;
    for (int round = 0; round < KS_PHILOX_ROUNDS; round++) {
        uint64_t p0 = KS_PHILOX_MULTIPLIER_0 * (uint64_t)c[0], p1 = KS_PHILOX_MULTIPLIER_1 * (uint64_t)c[2];
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)p0;
        k0 += KS_PHILOX_WEYL_0;
        k1 += KS_PHILOX_WEYL_1;
    }
}

/* torch's threads of a draw of n: as many as elements, in blocks of 256, up to 8 blocks a multiprocessor. Each gives values
 * 0 to 3 of a counter's normals to elements (4 * round + value) * threads + its number. */
static inline int64_t ks_philox_grid(int64_t n, int multiprocessors)
{
    int64_t grid = (n + 255) / 256, full = 8 * (int64_t)multiprocessors;
    return 256 * (grid < full ? grid : full);
}

/* --- Box-Muller ---
 *
 * Logarithm, sine and cosine are own series in double, so that results neither depend on the C library's choice for this
 * machine nor on the compiler, and loops over them run on vectors. Their errors are below 2e-10 relative (log), 1e-11 (sin)
 * and 5e-13 absolute (cos): as a float, such a value is the nearest one but for some 0.2 %, which are off by one last bit. */

KS_ELEMENT uint64_t ks_bits_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

KS_ELEMENT double ks_of_bits(uint64_t bits)
{
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* An integer below 2^32 as double, without a conversion instruction that SSE2 lacks. */
KS_ELEMENT double ks_small_integer(uint64_t i)
{
    return ks_of_bits(i | 0x4330000000000000u) - 0x1p52;
}

/* ln x of a normal x in (0, 2): x = 2^e f with f in [sqrt 1/2, sqrt 2), and
 * ln f = 2 artanh s = 2 (s + s^3/3 + s^5/5 + ...) with s = (f - 1) / (f + 1), |s| <= 0.1716. */
KS_ELEMENT double ks_log_series(double x)
{
    const uint64_t root_half = 0x3fe6a09e667f3bcdu, one = 0x3ff0000000000000u;
    const uint64_t mantissa = 0x000fffffffffffffu;
    uint64_t shifted = ks_bits_of(x) + (one - root_half);
    double exponent = ks_small_integer(shifted >> 52) - 1023.0;
    double f = ks_of_bits((shifted & mantissa) + root_half);
    double s = (f - 1.0) / (f + 1.0), q = s * s;
    double tail = 1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11));
    double sum = 1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * tail));
    return exponent * 0.69314718055994531 + 2.0 * s * sum;
}

/* sin and cos of an angle in [0, 7]: a quarter turn k is taken off, the rest |x| <= pi/4 goes
 * through the Taylor series, and k swaps them and sets their signs. */
KS_ELEMENT void ks_sin_cos_series(double angle, double *sine, double *cosine)
{
    const double round_to_integer = 0x1.8p52;
    double turns = angle * 0.63661977236758134 + round_to_integer;
    uint64_t k = ks_bits_of(turns);
    double x = angle - (turns - round_to_integer) * 1.5707963267948966, q = x * x;
    double s = 1.0 / 120 + q * (-1.0 / 5040 + q * (1.0 / 362880 + q * (-1.0 / 39916800)));
    double c = -1.0 / 720 + q * (1.0 / 40320 + q * (-1.0 / 3628800 + q * (1.0 / 479001600)));
    uint64_t a = ks_bits_of(x + x * q * (-1.0 / 6 + q * s));
    uint64_t b = ks_bits_of(1.0 + q * (-0.5 + q * (1.0 / 24 + q * c)));
    uint64_t swap = (a ^ b) & (0u - (k & 1u));
    *sine = ks_of_bits(a ^ swap ^ ((k & 2u) << 62));
    *cosine = ks_of_bits(b ^ swap ^ (((k + 1u) & 2u) << 62));
}

/* Two normals: radius sqrt(-2 ln u) at an angle, both generators' float32 roundings after each
 * function included. u in (0, 1], angle * unit in [0, 7]. */
KS_ELEMENT void ks_box_muller(float u, float angle, double unit, float *sine, float *cosine)
{
    double s, c;
    ks_sin_cos_series(angle * unit, &s, &c);
    float radius = sqrtf(-2.0f * (float)ks_log_series(u));
    *sine = radius * (float)s;
    *cosine = radius * (float)c;
}

/* The CPU generator's pair in a block: u and angle (in radians) of its two words. Uniforms are k * 2^-24; 1 - uniform is
 * exact, 2 pi * uniform is rounded to float. */
KS_ELEMENT float ks_block_u(uint32_t word)
{
    return (float)((1 << 24) - (int32_t)(word & 0xffffffu)) * 0x1p-24f;
}

KS_ELEMENT float ks_block_angle(uint32_t word)
{
    return (float)KS_TWO_PI * ((float)(int32_t)(word & 0xffffffu) * 0x1p-24f);
}

/* The nearest float not above a positive normal double. */
KS_ELEMENT float ks_toward_zero(double x)
{
    return (float)ks_of_bits(ks_bits_of(x) & ~(uint64_t)0x1fffffff);
}

/* The nearest float: both halves and the upper one's shift are exact, so that the sum alone
 * rounds. */
KS_ELEMENT float ks_word_as_float(uint32_t word)
{
    return (float)(int32_t)(word >> 16) * 65536.0f + (float)(int32_t)(word & 0xffffu);
}

/* The CUDA generator's pair, its steps: a word as float, one fused multiplication and addition (exact in float or double
 * before it is rounded), and for its sine the angle in turns, which its multiplication rounds toward zero. */
KS_ELEMENT float ks_philox_u(uint32_t word)
{
    return ks_word_as_float(word) * 0x1p-32f + 0x1p-33f;
}

KS_ELEMENT float ks_philox_turns(uint32_t word)
{
    const double step = (double)(float)(KS_TWO_PI * 0x1p-32), per_radian = (double)(float)(1 / KS_TWO_PI);
    double a = (double)ks_word_as_float(word);
    return ks_toward_zero((double)(float)(a * step + 0.5 * step) * per_radian);
}

#endif
