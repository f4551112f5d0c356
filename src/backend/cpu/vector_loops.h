/* The body of every vector_*.c: the loops of vector.h over the widest vectors of that file's
 * instruction set. The including file defines VECTOR_TABLE, VECTOR_NAME and VECTOR_USABLE. */
#include <math.h>
#include <string.h>

#include "backend/cpu/vector.h"

#define FOUR_ONES -1, -1, -1, -1
#if defined(__AVX512F__)
#include <immintrin.h>
#define VECTOR_BYTES 64
#define VECTOR_ONES  FOUR_ONES, FOUR_ONES, FOUR_ONES, FOUR_ONES
#elif defined(__AVX2__)
#include <immintrin.h>
#define VECTOR_BYTES 32
#define VECTOR_ONES  FOUR_ONES, FOUR_ONES
#else
#define VECTOR_BYTES 16
#define VECTOR_ONES  FOUR_ONES
#endif

enum { LANES = VECTOR_BYTES / 4, HALF = LANES / 2 };

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES)));
typedef float half_floats __attribute__((vector_size(VECTOR_BYTES / 2)));
typedef double doubles __attribute__((vector_size(VECTOR_BYTES)));
typedef int64_t longs __attribute__((vector_size(VECTOR_BYTES)));

/* --- loads, stores and selection --- */

static inline floats load(const float *p)
{
    floats v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store(float *p, floats v)
{
    memcpy(p, &v, sizeof v);
}

static inline floats all(float value)
{
    return (floats){0} + value;
}

/* All bits set in the first n lanes. */
static inline ints first_lanes(int64_t n)
{
    static const int32_t window[2 * LANES] = {VECTOR_ONES};
    ints v;
    memcpy(&v, window + LANES - n, sizeof v);
    return v;
}

/* The first n < LANES elements, then zeros; only those n are read. */
static inline floats load_first(const float *p, int64_t n)
{
#if defined(__AVX512F__)
    return (floats)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif defined(__AVX2__)
    return (floats)_mm256_maskload_ps(p, (__m256i)first_lanes(n));
#else
    floats v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
#endif
}

static inline void store_part(float *p, floats v, int64_t n)
{
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif defined(__AVX2__)
    _mm256_maskstore_ps(p, (__m256i)first_lanes(n), (__m256)v);
#else
    memcpy(p, &v, (size_t)n * sizeof *p);
#endif
}

static inline doubles load_doubles(const float *p)
{
    half_floats v;
    memcpy(&v, p, sizeof v);
    return __builtin_convertvector(v, doubles);
}

static inline doubles load_doubles_part(const float *p, int64_t n)
{
    half_floats v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return __builtin_convertvector(v, doubles);
}

static inline floats choose(ints mask, floats yes, floats no)
{
    return (floats)((mask & (ints)yes) | (~mask & (ints)no));
}

static inline doubles choose_doubles(longs mask, doubles yes, doubles no)
{
    return (doubles)((mask & (longs)yes) | (~mask & (longs)no));
}

static inline floats at_least(floats x, float bound)
{
    return choose(x < all(bound), all(bound), x);
}

static inline floats at_most(floats x, float bound)
{
    return choose(x > all(bound), all(bound), x);
}

/* The first n < LANES elements; the others are `rest`. */
static inline floats load_part(const float *p, int64_t n, float rest)
{
    return choose(first_lanes(n), load_first(p, n), all(rest));
}

/* Lane 0 + lane 1 + ...: a fixed tree, halves upon halves. */
static inline float sum_lanes(floats v)
{
    float lane[LANES];
    store(lane, v);
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

static inline double sum_double_lanes(doubles v)
{
    double lane[HALF];
    memcpy(lane, &v, sizeof lane);
    for (int width = HALF / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lane[i] += lane[i + width];
    return lane[0];
}

/* --- elementary functions --- */

/* exp(x) = 2^n exp(r), n = round(x / ln 2), |r| <= ln 2 / 2; exp(r) = 1 + r + r^2 p(r) with p the
 * minimax polynomial of degree 4 (3e-9). ln 2 in two parts, the first short enough that n * it is
 * exact. */
static inline floats exponential(floats x)
{
    const float round_bits = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer */
    x = at_most(at_least(x, -87.0f), 88.0f);
    floats shifted = x * 1.44269504f + round_bits;
    floats n = shifted - round_bits;
    floats r = x - n * 0x1.62e4p-1f;
    r = r - n * 0x1.7f7d1cp-20f;
    floats p = all(0x1.6db47ap-10f);
    p = p * r + 0x1.123b92p-7f;
    p = p * r + 0x1.55545ep-5f;
    p = p * r + 0x1.55548ep-3f;
    p = p * r + 0.5f;
    p = p * (r * r) + r + 1.0f;
    ints power = ((ints)shifted - 0x4b400000 + 127) << 23;
    return p * (floats)power;
}

static inline floats logistic(floats x)
{
    return 1.0f / (1.0f + exponential(-x));
}

/* The normal distribution function. |x| <= 1: 1/2 + x p(x^2), p minimax of degree 5 (7e-10).
 * Beyond: the tail exp(-x^2 / 2) t p(t), t = 1 / (1 + 0.35 |x| / sqrt 2), p minimax of degree 7
 * (1e-8). */
static inline floats normal_distribution(floats x)
{
    floats s = x * x;
    floats centre = all(-0x1.00d524p-17f);
    centre = centre * s + 0x1.dbff1p-14f;
    centre = centre * s - 0x1.36fd42p-10f;
    centre = centre * s + 0x1.46ce4cp-7f;
    centre = centre * s - 0x1.105832p-4f;
    centre = centre * s + 0x1.988454p-2f;
    centre = centre * x + 0.5f;

    floats size = at_most((floats)((ints)x & 0x7fffffff), 9.5f);
    floats t = 1.0f / (size * (0.35f * 0.70710678f) + 1.0f);
    floats u = t - 0x1.17d34cp-1f;
    floats tail = all(-0x1.8d02d2p-5f);
    tail = tail * u - 0x1.0eb6e6p-4f;
    tail = tail * u + 0x1.cfa30ap-5f;
    tail = tail * u + 0x1.1455b2p-2f;
    tail = tail * u + 0x1.b7944p-2f;
    tail = tail * u + 0x1.c79c54p-2f;
    tail = tail * u + 0x1.5d4552p-2f;
    tail = tail * u + 0x1.9dd008p-3f;
    tail = tail * t * exponential(size * size * -0.5f);
    floats outside = choose(x < 0.0f, tail, 1.0f - tail);
    return choose(s <= 1.0f, centre, outside);
}

static inline floats same(floats x)
{
    return x;
}

static inline floats silu(floats x)
{
    return x / (1.0f + exponential(-x));
}

static inline floats gelu(floats x)
{
    return x * normal_distribution(x);
}

static inline floats quick_gelu(floats x)
{
    return x * logistic(x * 1.702f);
}

/* --- loops over elements --- */

static float vector_max(const float *x, int64_t n)
{
    floats best = all(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        floats v = load(x + i);
        best = choose(v > best, v, best);
    }
    floats v = load_part(x + i, n - i, -INFINITY);
    best = choose(v > best, v, best);
    float lane[LANES], result = -INFINITY;
    store(lane, best);
    for (int l = 0; l < LANES; l++)
        result = lane[l] > result ? lane[l] : result;
    return result;
}

static float vector_exp_sum(float *x, int64_t n, float shift)
{
    floats sum = all(0.0f);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        floats e = exponential(load(x + i) - shift);
        store(x + i, e);
        sum += e;
    }
    if (i < n) {
        floats e = exponential(load_part(x + i, n - i, shift) - shift);
        store_part(x + i, e, n - i);
        sum += load_first(x + i, n - i);
    }
    return sum_lanes(sum);
}

static void vector_scale(float *x, int64_t n, float factor)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(x + i, load(x + i) * factor);
    store_part(x + i, load_first(x + i, n - i) * factor, n - i);
}

static void vector_add(float *y, const float *a, const float *b, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(y + i, load(a + i) + load(b + i));
    store_part(y + i, load_first(a + i, n - i) + load_first(b + i, n - i), n - i);
}

#define MAP_LOOP(name, function)                                                                   \
    static void name(float *y, const float *x, int64_t n)                                          \
    {                                                                                              \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= n; i += LANES)                                                         \
            store(y + i, function(load(x + i)));                                                   \
        if (i < n)                                                                                 \
            store_part(y + i, function(load_first(x + i, n - i)), n - i);                          \
    }
MAP_LOOP(map_same, same)
MAP_LOOP(map_silu, silu)
MAP_LOOP(map_gelu, gelu)
MAP_LOOP(map_quick_gelu, quick_gelu)

static void vector_activate(float *y, const float *x, int64_t n, ks_activation activation)
{
    static void (*const map[])(float *, const float *, int64_t) = {
        [KS_ACT_NONE] = map_same,
        [KS_ACT_SILU] = map_silu,
        [KS_ACT_GELU] = map_gelu,
        [KS_ACT_QUICK_GELU] = map_quick_gelu,
    };
    map[activation](y, x, n);
}

static void vector_geglu(float *y, const float *value, const float *gate, int64_t n)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        store(y + i, load(value + i) * gelu(load(gate + i)));
    if (i < n) {
        floats v = load_first(value + i, n - i), g = load_first(gate + i, n - i);
        store_part(y + i, v * gelu(g), n - i);
    }
}

static void vector_affine(float *y, const float *x, const float *scale, const float *shift,
                          int64_t n, bool with_silu)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        floats v = load(x + i) * load(scale + i) + load(shift + i);
        store(y + i, with_silu ? silu(v) : v);
    }
    if (i == n)
        return;
    int64_t rest = n - i;
    floats v = load_first(x + i, rest) * load_first(scale + i, rest) + load_first(shift + i, rest);
    store_part(y + i, with_silu ? silu(v) : v, rest);
}

/* --- sums --- */

/* The moments of the n <= HALF channels at x. */
static inline void channel_moments(double *sum, double *square, const float *x, int64_t stride,
                                   int64_t pixels, int64_t n)
{
    doubles s = {0}, q = {0};
    memcpy(&s, sum, (size_t)n * sizeof *sum);
    memcpy(&q, square, (size_t)n * sizeof *square);
    for (int64_t p = 0; p < pixels; p++) {
        doubles v = n == HALF ? load_doubles(x + p * stride) : load_doubles_part(x + p * stride, n);
        s += v;
        q += v * v;
    }
    memcpy(sum, &s, (size_t)n * sizeof *sum);
    memcpy(square, &q, (size_t)n * sizeof *square);
}

static void vector_moments(double *sum, double *square, const float *x, int64_t stride,
                           int64_t pixels, int c)
{
    int k = 0;
    for (; k + HALF <= c; k += HALF)
        channel_moments(sum + k, square + k, x + k, stride, pixels, HALF);
    if (k < c)
        channel_moments(sum + k, square + k, x + k, stride, pixels, c - k);
}

/* Sum over i of (x[i] - centre)^power, power 1 or 2. */
static inline double centred_sum(const float *x, int c, double centre, int power)
{
    doubles sum = {0};
    int i = 0;
    for (; i + HALF <= c; i += HALF) {
        doubles d = load_doubles(x + i) - centre;
        sum += power == 2 ? d * d : d;
    }
    double total = sum_double_lanes(sum);
    for (; i < c; i++) {
        double d = (double)x[i] - centre;
        total += power == 2 ? d * d : d;
    }
    return total;
}

static void vector_layer_norm(float *y, const float *x, const float *gamma, const float *beta,
                              int c, float eps)
{
    double mean = centred_sum(x, c, 0.0, 1) / c;
    double variance = centred_sum(x, c, mean, 2) / c;
    float centre = (float)mean, factor = (float)(1.0 / sqrt(variance + (double)eps));
    int i = 0;
    for (; i + LANES <= c; i += LANES)
        store(y + i, (load(x + i) - centre) * factor * load(gamma + i) + load(beta + i));
    if (i == c)
        return;
    int rest = c - i;
    floats v = (load_first(x + i, rest) - centre) * factor;
    store_part(y + i, v * load_first(gamma + i, rest) + load_first(beta + i, rest), rest);
}

/* One strip of `columns` <= LANES outputs. */
static inline void strip(float *y, const float *x, const float *w, int64_t ld, const float *bias,
                         int64_t k, int64_t columns)
{
    floats sum = bias ? load_first(bias, columns) : all(0.0f);
    for (int64_t i = 0; i < k; i++)
        sum += load_first(w + i * ld, columns) * x[i];
    store_part(y, sum, columns);
}

/* Four vectors of outputs. */
static inline void wide_strip(float *y, const float *x, const float *w, int64_t ld,
                              const float *bias, int64_t k)
{
    floats sum[4];
    for (int j = 0; j < 4; j++)
        sum[j] = bias ? load(bias + j * LANES) : all(0.0f);
    for (int64_t i = 0; i < k; i++)
        for (int j = 0; j < 4; j++)
            sum[j] += load(w + i * ld + j * LANES) * x[i];
    for (int j = 0; j < 4; j++)
        store(y + j * LANES, sum[j]);
}

static void vector_matrix(float *y, const float *x, const float *w, int64_t ld, const float *bias,
                          int64_t k, int64_t n)
{
    int64_t j = 0;
    for (; j + 4 * LANES <= n; j += 4 * LANES)
        wide_strip(y + j, x, w + j, ld, bias ? bias + j : NULL, k);
    for (; j + LANES <= n; j += LANES)
        strip(y + j, x, w + j, ld, bias ? bias + j : NULL, k, LANES);
    if (j < n)
        strip(y + j, x, w + j, ld, bias ? bias + j : NULL, k, n - j);
}

/* --- the lanes' arithmetic --- */

static void vector_lincomb(const ks_lincomb_op *op, int64_t first, int64_t n)
{
    int64_t i = first, end = first + n;
    for (; i + HALF <= end; i += HALF) {
        doubles sum = {0};
        for (int t = 0; t < op->terms; t++)
            sum += load_doubles(op->in[t] + i) * op->coef[t];
        half_floats rounded = __builtin_convertvector(sum, half_floats);
        memcpy(op->out + i, &rounded, sizeof rounded);
    }
    if (i == end)
        return;
    doubles sum = {0};
    for (int t = 0; t < op->terms; t++)
        sum += load_doubles_part(op->in[t] + i, end - i) * op->coef[t];
    half_floats rounded = __builtin_convertvector(sum, half_floats);
    memcpy(op->out + i, &rounded, (size_t)(end - i) * sizeof *op->out);
}

static inline doubles size_of(doubles x)
{
    return (doubles)((longs)x & INT64_MAX);
}

static double vector_error_sum(const float *a, const float *b, const float *c, int64_t n,
                               double atol, double rtol)
{
    doubles sum = {0}, least = (doubles){0} + atol;
    for (int64_t i = 0; i < n; i += HALF) {
        int64_t count = n - i < HALF ? n - i : HALF;
        doubles u = load_doubles_part(a + i, count);
        doubles v = size_of(load_doubles_part(b + i, count));
        doubles w = size_of(load_doubles_part(c + i, count));
        doubles bound = choose_doubles(v > w, v, w) * rtol;
        bound = choose_doubles(bound > least, bound, least);
        doubles ratio = u / bound;
        sum += ratio * ratio;
    }
    return sum_double_lanes(sum);
}

static bool vector_all_finite(const float *x, int64_t n)
{
    const ints exponent = (ints){0} + 0x7f800000;
    ints bad = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        bad |= ((ints)load(x + i) & exponent) == exponent;
    bad |= ((ints)load_first(x + i, n - i) & exponent) == exponent;
    int32_t lane[LANES], any = 0;
    memcpy(lane, &bad, sizeof lane);
    for (int l = 0; l < LANES; l++)
        any |= lane[l];
    return any == 0;
}

static bool usable(void)
{
    return VECTOR_USABLE;
}

extern const ks_vector VECTOR_TABLE;
const ks_vector VECTOR_TABLE = {
    .name = VECTOR_NAME,
    .usable = usable,
    .max = vector_max,
    .exp_sum = vector_exp_sum,
    .scale = vector_scale,
    .add = vector_add,
    .activate = vector_activate,
    .geglu = vector_geglu,
    .affine = vector_affine,
    .moments = vector_moments,
    .layer_norm = vector_layer_norm,
    .vector_matrix = vector_matrix,
    .lincomb = vector_lincomb,
    .error_sum = vector_error_sum,
    .all_finite = vector_all_finite,
};
