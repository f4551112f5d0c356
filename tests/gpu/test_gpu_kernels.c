/* kernels/attention.h and kernels/norm.h on this machine's GPU: values against double precision on
 * the host, rows' bits against their place and neighbours, memory outside the result untouched; and
 * how fast the shapes of SDXL and SD 1.5 run. Returns 77 without a GPU, 1 when anything fails.
 *
 *   test_gpu_kernels            checks and times
 *   test_gpu_kernels --check    checks alone
 *   test_gpu_kernels --time     times alone
 *
 * Bounds, in relative L2: fp32 1e-6. In fp16 and bf16 inputs are exact, weights of the softmax and
 * the result are rounded once each, by at most half a unit u in the last place (fp16 u = 2^-10,
 * bf16 2^-7), so that u bounds the whole. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../kernels/attention.h"
#include "../../kernels/norm.h"

enum { NO_GPU = 77, POISON = 0xff };

static int failures;

/* ---- element types ---- */

typedef struct element_type {
    ks_dtype dtype;
    const char *name;
    size_t size;
    double bound;
} element_type;

static const element_type types[] = {
    {KS_F32, "fp32", 4, 1e-6},
    {KS_F16, "fp16", 2, 1.0 / 1024},
    {KS_BF16, "bf16", 2, 1.0 / 128},
};
enum { TYPES = sizeof types / sizeof *types };

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Nearest, halves to even; for |x| < 65504. */
static uint16_t half_bits(float x)
{
    const uint16_t sign = (uint16_t)(bits_of(x) >> 16 & 0x8000);
    const float size = fabsf(x);
    if (size < 6.103515625e-5f) /* subnormal: a multiple of 2^-24 */
        return (uint16_t)(sign | (uint16_t)nearbyintf(size * 16777216.0f));
    uint32_t bits = bits_of(size);
    bits += 0xfff + (bits >> 13 & 1);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}

static float half_value(uint16_t bits)
{
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent == 31 ? (fraction ? NAN : INFINITY)
                 : exponent ? ldexpf((float)(fraction + 1024), exponent - 25)
                            : ldexpf((float)fraction, -24);
    return bits & 0x8000 ? -size : size;
}

static void put(const element_type *t, void *data, size_t i, float x)
{
    const uint32_t bits = bits_of(x);
    if (t->dtype == KS_F32)
        ((float *)data)[i] = x;
    else if (t->dtype == KS_F16)
        ((uint16_t *)data)[i] = isnan(x) ? 0x7e00 : half_bits(x);
    else
        ((uint16_t *)data)[i] =
            isnan(x) ? 0x7fc0 : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float get(const element_type *t, const void *data, size_t i)
{
    if (t->dtype == KS_F32)
        return ((const float *)data)[i];
    const uint16_t bits = ((const uint16_t *)data)[i];
    return t->dtype == KS_F16 ? half_value(bits) : float_of((uint32_t)bits << 16);
}

/* ---- memory ---- */

static void must(int code, const char *what)
{
    if (code == (int)cudaSuccess)
        return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString((cudaError_t)code));
    exit(1);
}

static void *host_memory(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(1);
    }
    return memory;
}

static void *device_memory(size_t bytes)
{
    void *memory = NULL;
    must((int)cudaMalloc(&memory, bytes ? bytes : 16), "cudaMalloc");
    return memory;
}

/* A tensor on the device with its copy on the host. Pixels are `stride` elements apart, the first
 * starts `skip` elements behind the allocation. */
typedef struct tensor {
    const element_type *type;
    ks_act act; /* device */
    unsigned char *host, *memory;
    size_t bytes, skip;
} tensor;

static tensor tensor_new(const element_type *t, int n, int h, int w, int c, int64_t stride,
                         size_t skip)
{
    tensor x = {.type = t, .skip = skip};
    x.bytes = (skip + (size_t)n * (size_t)h * (size_t)w * (size_t)stride) * t->size;
    x.host = host_memory(x.bytes);
    memset(x.host, POISON, x.bytes);
    x.memory = device_memory(x.bytes);
    x.act = (ks_act){x.memory + skip * t->size, n, h, w, c, stride};
    return x;
}

static void tensor_free(tensor *x)
{
    free(x->host);
    must((int)cudaFree(x->memory), "cudaFree");
}

static void upload(tensor *x)
{
    must((int)cudaMemcpy(x->memory, x->host, x->bytes, cudaMemcpyHostToDevice), "upload");
}

static void download(tensor *x)
{
    must((int)cudaDeviceSynchronize(), "kernel");
    must((int)cudaMemcpy(x->host, x->memory, x->bytes, cudaMemcpyDeviceToHost), "download");
}

static size_t index_of(const tensor *x, int row, int pixel, int channel)
{
    return x->skip + ((size_t)row * (size_t)(x->act.h * x->act.w) + (size_t)pixel) *
                         (size_t)x->act.stride + (size_t)channel;
}

static double value(const tensor *x, int row, int pixel, int channel)
{
    return (double)get(x->type, x->host, index_of(x, row, pixel, channel));
}

/* All of them, [n][pixels][c]; the caller frees it. */
static double *values_of(const tensor *x)
{
    const int pixels = x->act.h * x->act.w;
    const size_t count = (size_t)x->act.n * (size_t)pixels * (size_t)x->act.c;
    double *all = host_memory(count * sizeof *all), *next = all;
    for (int i = 0; i < x->act.n; i++)
        for (int p = 0; p < pixels; p++)
            for (int c = 0; c < x->act.c; c++)
                *next++ = value(x, i, p, c);
    return all;
}

/* Whether everything between and before the pixels still is as it was poisoned. */
static int gaps_untouched(const tensor *x)
{
    const size_t size = x->type->size, pixels = (size_t)x->act.n * (size_t)(x->act.h * x->act.w);
    for (size_t i = 0; i < x->skip * size; i++)
        if (x->host[i] != POISON)
            return 0;
    for (size_t p = 0; p < pixels; p++) {
        const unsigned char *pixel = x->host + (x->skip + p * (size_t)x->act.stride) * size;
        for (size_t i = (size_t)x->act.c * size; i < (size_t)x->act.stride * size; i++)
            if (pixel[i] != POISON)
                return 0;
    }
    return 1;
}

/* ---- numbers ---- */

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static double uniform(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(random_state >> 11) + 0.5) / 9007199254740992.0;
}

static float normal(void)
{
    return (float)(sqrt(-2.0 * log(uniform())) * cos(6.283185307179586 * uniform()));
}

static void fill(tensor *x, float mean, float spread)
{
    for (int i = 0; i < x->act.n; i++)
        for (int p = 0; p < x->act.h * x->act.w; p++)
            for (int c = 0; c < x->act.c; c++)
                put(x->type, x->host, index_of(x, i, p, c), mean + spread * normal());
    upload(x);
}

/* ||got - want|| / ||want||, infinite for anything that is not a number. want: [n][pixels][c]. */
static double distance(const tensor *got, const double *want)
{
    double apart = 0.0, size = 0.0;
    for (int i = 0; i < got->act.n; i++)
        for (int p = 0; p < got->act.h * got->act.w; p++)
            for (int c = 0; c < got->act.c; c++, want++) {
                const double d = value(got, i, p, c) - *want;
                apart += d * d;
                size += *want * *want;
            }
    if (isnan(apart))
        return INFINITY;
    return size > 0.0 ? sqrt(apart / size) : sqrt(apart);
}

static void report(const char *what, const element_type *t, double error, double bound, int same,
                   int gaps)
{
    const int good = error <= bound && same && gaps;
    failures += !good;
    printf("%-58s %s  %9.2e  %8.1e  %s%s%s\n", what, t->name, error, bound, good ? "ok" : "FAILED",
           same ? "" : " (a row's bits moved)", gaps ? "" : " (wrote outside the result)");
}

/* ---- attention ---- */

typedef struct attention_case {
    int n, kv_rows, q_tokens, kv_tokens, heads, width;
    int causal, kv_row, kv_len;
    int fused;  /* q, k and v are slices of one [n, tokens, 3 c] tensor */
    int skewed; /* strides and starts off the 16-byte boundaries */
    int rising; /* keys grow from token to token (half precision alone: fp32's bound is for scores
                   of a few units) */
} attention_case;

static const attention_case attention_cases[] = {
    {2, 2, 64, 64, 2, 64, 0, 0, 0, 0, 0, 0}, {2, 2, 192, 192, 2, 64, 0, 0, 0, 1, 0, 0},
    {3, 3, 200, 333, 2, 64, 0, 0, 1, 0, 0, 0}, {3, 2, 130, 77, 2, 64, 0, 1, 1, 0, 0, 0},
    {3, 2, 130, 154, 2, 64, 0, 1, 1, 0, 0, 0}, {2, 2, 77, 77, 3, 64, 1, 0, 0, 1, 0, 0},
    {2, 2, 300, 300, 1, 64, 1, 0, 0, 0, 0, 0}, {2, 2, 33, 150, 2, 64, 0, 0, 1, 0, 1, 0},
    {2, 2, 100, 640, 1, 64, 0, 0, 1, 0, 0, 0}, {2, 2, 65, 65, 2, 24, 0, 0, 0, 0, 0, 0},
    {2, 2, 65, 300, 2, 24, 0, 0, 1, 0, 0, 0}, {2, 2, 70, 77, 3, 32, 1, 0, 0, 0, 0, 0},
    {2, 2, 70, 150, 3, 32, 0, 0, 1, 0, 0, 0}, {2, 2, 129, 129, 2, 40, 0, 0, 0, 1, 0, 0},
    {3, 2, 100, 77, 8, 40, 0, 1, 1, 0, 0, 0}, {2, 2, 100, 400, 3, 40, 0, 0, 1, 0, 0, 0},
    {2, 2, 100, 150, 2, 48, 0, 0, 0, 0, 0, 0}, {2, 2, 50, 77, 2, 48, 0, 0, 0, 0, 0, 0},
    {2, 2, 150, 150, 2, 80, 0, 0, 0, 1, 0, 0}, {3, 2, 60, 77, 2, 80, 0, 1, 1, 0, 0, 0},
    {2, 2, 90, 400, 1, 80, 0, 0, 1, 0, 0, 0}, {2, 2, 60, 140, 2, 96, 0, 0, 0, 0, 0, 0},
    {2, 2, 60, 60, 2, 96, 0, 0, 0, 0, 0, 0}, {2, 2, 140, 300, 1, 128, 0, 0, 1, 0, 0, 0},
    {2, 2, 60, 100, 2, 128, 1, 0, 0, 0, 0, 0}, {2, 2, 200, 200, 2, 160, 0, 0, 0, 1, 0, 0},
    {3, 2, 60, 77, 2, 160, 0, 1, 1, 0, 0, 0}, {2, 2, 140, 250, 1, 160, 1, 0, 1, 0, 0, 0},
    {2, 2, 100, 150, 1, 512, 0, 0, 0, 0, 0, 0}, {2, 2, 66, 66, 1, 320, 0, 0, 1, 0, 0, 0},
    {2, 2, 70, 70, 1, 200, 1, 0, 0, 0, 0, 0}, {2, 2, 40, 50, 3, 7, 0, 0, 1, 0, 1, 0},
    {2, 2, 40, 50, 1, 333, 0, 0, 1, 0, 1, 0}, {2, 2, 1, 1, 2, 64, 0, 0, 0, 0, 0, 0},
    {2, 2, 5, 200, 2, 36, 0, 0, 1, 0, 0, 0},
    /* few keys, which one block keeps: all numbers of them, and none */
    {3, 3, 130, 1, 2, 64, 0, 0, 1, 0, 0, 0}, {3, 3, 130, 16, 2, 64, 0, 0, 1, 0, 0, 0},
    {3, 3, 70, 80, 2, 64, 0, 0, 1, 0, 0, 0}, {3, 3, 70, 81, 2, 64, 0, 0, 1, 0, 0, 0},
    {3, 3, 64, 160, 2, 64, 0, 0, 1, 0, 0, 0}, {3, 3, 70, 161, 2, 64, 0, 0, 1, 0, 0, 0},
    {3, 3, 70, 80, 2, 40, 0, 0, 1, 0, 0, 0}, {3, 3, 70, 154, 2, 40, 0, 0, 1, 0, 0, 0},
    {3, 3, 70, 80, 2, 80, 0, 0, 1, 0, 0, 0}, {3, 3, 70, 77, 2, 128, 0, 0, 1, 0, 0, 0},
    {3, 3, 64, 64, 2, 160, 0, 0, 1, 0, 0, 0}, {2, 2, 77, 77, 2, 64, 0, 0, 0, 0, 1, 0},
    /* so many heads that a block takes several tiles of queries; a row alone has one a block */
    {12, 2, 300, 77, 30, 8, 0, 1, 1, 0, 0, 0}, {12, 2, 300, 5, 30, 64, 0, 1, 1, 0, 0, 0},
    {12, 2, 300, 90, 20, 8, 0, 1, 1, 0, 0, 0}, {12, 2, 260, 3, 24, 80, 0, 1, 1, 0, 0, 0},
    {12, 2, 260, 2, 24, 136, 0, 1, 1, 0, 0, 0},
    /* so many tiles of queries that a block has several in turn, with other numbers of keys, and
     * none among them */
    {6, 3, 70, 400, 46, 8, 0, 1, 1, 0, 0, 0}, {6, 3, 5, 165, 46, 40, 0, 1, 1, 0, 0, 0},
    {6, 3, 5, 165, 46, 64, 0, 1, 1, 0, 0, 0}, {6, 3, 5, 165, 46, 80, 0, 1, 1, 0, 0, 0},
    {6, 3, 5, 130, 46, 136, 0, 1, 1, 0, 0, 0}, {6, 6, 200, 200, 23, 8, 1, 0, 0, 0, 0, 0},
    /* scores that rise from key to key, past what weights are relative to, again and again */
    {2, 2, 100, 640, 2, 40, 0, 0, 1, 0, 0, 1}, {2, 2, 300, 640, 2, 64, 0, 0, 0, 0, 0, 1},
    {2, 2, 130, 500, 1, 80, 0, 0, 1, 0, 0, 1}, {2, 2, 400, 400, 1, 40, 1, 0, 0, 0, 0, 1},
    {2, 2, 70, 330, 1, 128, 0, 0, 0, 0, 0, 1}, {2, 2, 70, 330, 1, 160, 0, 0, 0, 0, 0, 1},
    /* whole tiles of queries and blocks of keys, and one more or less of each */
    {2, 2, 256, 512, 2, 40, 0, 0, 0, 0, 0, 0}, {2, 2, 257, 511, 1, 40, 0, 0, 0, 0, 0, 0},
    {2, 2, 255, 385, 1, 64, 0, 0, 0, 0, 0, 0}, {2, 2, 321, 513, 1, 64, 0, 0, 1, 0, 0, 0},
    {2, 2, 193, 257, 1, 80, 0, 0, 0, 0, 0, 0}, {2, 2, 300, 300, 2, 40, 1, 0, 1, 0, 0, 0},
    /* so many heads that tiles stay whole which a row alone splits (on 132 multiprocessors) */
    {3, 3, 256, 200, 44, 8, 0, 0, 0, 0, 0, 0}, {3, 3, 192, 200, 44, 8, 0, 0, 1, 0, 0, 0},
    {3, 3, 200, 170, 44, 48, 0, 0, 0, 0, 0, 0}, {3, 3, 130, 170, 44, 48, 0, 0, 0, 0, 0, 0},
    {3, 3, 130, 130, 44, 72, 0, 0, 0, 0, 0, 0}, {3, 3, 200, 200, 44, 8, 1, 0, 0, 0, 0, 0},
};

typedef struct attention_data {
    tensor q, k, v, y, fused;
    int32_t *row, *length;               /* host; NULL: not given */
    int32_t *device_row, *device_length; /* their copies */
} attention_data;

static int tokens_of(const attention_case *a, const attention_data *d, int kv_row)
{
    return d->length ? d->length[kv_row] : a->kv_tokens;
}

static int32_t *device_copy(const int32_t *host, int count)
{
    int32_t *device = device_memory((size_t)count * sizeof *device);
    must((int)cudaMemcpy(device, host, (size_t)count * sizeof *host, cudaMemcpyHostToDevice),
         "upload");
    return device;
}

/* A slice of a fused tensor as a tensor of its own; owns nothing. */
static tensor slice_of(const tensor *whole, int part, int c)
{
    tensor x = *whole;
    x.act.c = c;
    x.skip += (size_t)(part * c);
    x.act.data = x.memory + x.skip * x.type->size;
    return x;
}

/* Scores of a later block of keys so reach far over those of an earlier one, at last by more than
 * fp32 has powers of two. */
static void raise_keys(tensor *k)
{
    for (int i = 0; i < k->act.n; i++)
        for (int p = 0; p < k->act.h * k->act.w; p++)
            for (int c = 0; c < k->act.c; c++)
                put(k->type, k->host, index_of(k, i, p, c),
                    (float)value(k, i, p, c) * (1.0f + (float)(p * p) / 8192.0f));
    upload(k);
}

static void make_inputs(attention_data *d, const attention_case *a, const element_type *t)
{
    const int c = a->heads * a->width;
    const int64_t stride = a->skewed ? c + 3 : c + 16;
    const size_t skip = a->skewed ? 1 : 0;
    if (a->fused) {
        d->fused = tensor_new(t, a->n, a->q_tokens, 1, 3 * c, 3 * c, 0);
        d->q = slice_of(&d->fused, 0, c);
        d->k = slice_of(&d->fused, 1, c);
        d->v = slice_of(&d->fused, 2, c);
    } else {
        d->q = tensor_new(t, a->n, a->q_tokens, 1, c, stride, skip);
        d->k = tensor_new(t, a->kv_rows, a->kv_tokens, 1, c, stride, skip);
        d->v = tensor_new(t, a->kv_rows, a->kv_tokens, 1, c, stride, skip);
    }
    d->y = tensor_new(t, a->n, a->q_tokens, 1, c, stride, skip);
    fill(&d->q, 0.0f, 3.0f);
    fill(&d->k, 0.0f, 1.0f);
    fill(&d->v, 0.0f, 1.0f);
    if (a->rising)
        raise_keys(&d->k);
}

/* Rows and lengths: the first row has all tokens, the last none when there are three rows of q. */
static void make_tables(attention_data *d, const attention_case *a)
{
    if (a->kv_row) {
        d->row = host_memory((size_t)a->n * sizeof *d->row);
        for (int i = 0; i < a->n; i++)
            d->row[i] = (a->n - i) % a->kv_rows;
        d->device_row = device_copy(d->row, a->n);
    }
    if (!a->kv_len)
        return;
    d->length = host_memory((size_t)a->kv_rows * sizeof *d->length);
    for (int i = 0; i < a->kv_rows; i++)
        d->length[i] = i == 0 ? a->kv_tokens : i == 2 ? 0 : (a->kv_tokens * 2 + 2) / 3;
    d->device_length = device_copy(d->length, a->kv_rows);
    for (int i = 0; i < a->kv_rows; i++)
        for (int p = d->length[i]; p < a->kv_tokens; p++)
            for (int c = 0; c < d->k.act.c; c++) {
                put(d->k.type, d->k.host, index_of(&d->k, i, p, c), NAN);
                put(d->v.type, d->v.host, index_of(&d->v, i, p, c), NAN);
            }
    upload(&d->k);
    upload(&d->v);
}

static void attention_free(attention_data *d, const attention_case *a)
{
    tensor_free(&d->y);
    if (a->fused) {
        tensor_free(&d->fused);
    } else {
        tensor_free(&d->q);
        tensor_free(&d->k);
        tensor_free(&d->v);
    }
    free(d->row);
    free(d->length);
    if (d->device_row)
        must((int)cudaFree(d->device_row), "cudaFree");
    if (d->device_length)
        must((int)cudaFree(d->device_length), "cudaFree");
}

/* One query of a head in double: out = softmax(q k^T / sqrt(width)) v. k, v: the head's first of
 * `keys` tokens that are c values apart. weight: room for all keys. */
static void attend(const double *q, const double *k, const double *v, int keys, int width, size_t c,
                   double *weight, double *out)
{
    double largest = -INFINITY, sum = 0.0;
    for (int j = 0; j < keys; j++) {
        double dot = 0.0;
        for (int i = 0; i < width; i++)
            dot += q[i] * k[(size_t)j * c + (size_t)i];
        weight[j] = dot / sqrt(width);
        largest = fmax(largest, weight[j]);
    }
    for (int j = 0; j < keys; j++)
        sum += weight[j] = exp(weight[j] - largest);
    for (int i = 0; i < width; i++)
        out[i] = 0.0;
    for (int j = 0; j < keys; j++)
        for (int i = 0; i < width; i++)
            out[i] += weight[j] / sum * v[(size_t)j * c + (size_t)i];
}

static double *attention_reference(const attention_case *a, const attention_data *d)
{
    const size_t c = (size_t)(a->heads * a->width);
    double *want = host_memory((size_t)(a->n * a->q_tokens) * c * sizeof *want);
    double *weight = host_memory((size_t)a->kv_tokens * sizeof *weight);
    double *q = values_of(&d->q), *k = values_of(&d->k), *v = values_of(&d->v);
    for (int i = 0; i < a->n; i++) {
        const int kv_row = d->row ? d->row[i] : i, keys = tokens_of(a, d, kv_row);
        for (int t = 0; t < a->q_tokens; t++)
            for (int h = 0; h < a->heads; h++) {
                const size_t channel = (size_t)(h * a->width);
                const size_t at = (size_t)(i * a->q_tokens + t) * c + channel;
                const size_t kv = (size_t)(kv_row * a->kv_tokens) * c + channel;
                attend(q + at, k + kv, v + kv, a->causal && keys > t + 1 ? t + 1 : keys, a->width,
                       c, weight, want + at);
            }
    }
    void *all[] = {q, k, v, weight};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    return want;
}

static void run_attention(const attention_case *a, ks_dtype type, ks_act y, ks_act q, ks_act k,
                          ks_act v, const int32_t *row, const int32_t *length)
{
    const size_t bytes = ks_cuda_attention_workspace(type, q.n, q.h * q.w, k.h * k.w, a->heads,
                                                     a->width);
    void *workspace = device_memory(bytes);
    must(ks_cuda_attention(NULL, type, y, q, k, v, a->heads, a->causal != 0, row, length, workspace,
                           bytes),
         "attention");
    must((int)cudaDeviceSynchronize(), "attention");
    must((int)cudaFree(workspace), "cudaFree");
}

/* Each row alone, through a view of it, gives the same bits as among the others. */
static int attention_rows_keep_bits(const attention_case *a, attention_data *d)
{
    const size_t row_bytes =
        (size_t)(a->q_tokens * d->y.act.stride) * d->y.type->size;
    unsigned char *together = host_memory(d->y.bytes);
    memcpy(together, d->y.host, d->y.bytes);
    memset(d->y.host, POISON, d->y.bytes);
    upload(&d->y);
    for (int i = 0; i < a->n; i++) {
        const int32_t kv_row = d->row ? d->row[i] : i;
        int32_t *row = device_copy(&kv_row, 1);
        ks_act q = d->q.act, y = d->y.act;
        q.n = y.n = 1;
        const size_t size = d->y.type->size, at = (size_t)(i * a->q_tokens);
        q.data = (unsigned char *)q.data + at * (size_t)q.stride * size;
        y.data = (unsigned char *)y.data + at * (size_t)y.stride * size;
        run_attention(a, d->y.type->dtype, y, q, d->k.act, d->v.act, row, d->device_length);
        must((int)cudaFree(row), "cudaFree");
    }
    download(&d->y);
    const size_t start = d->y.skip * d->y.type->size;
    int same = memcmp(together, d->y.host, start) == 0;
    for (int i = 0; i < a->n; i++)
        same &= memcmp(together + start + (size_t)i * row_bytes,
                       d->y.host + start + (size_t)i * row_bytes, row_bytes) == 0;
    free(together);
    return same;
}

static void check_attention(const attention_case *a, const element_type *t)
{
    attention_data d = {0};
    if (a->rising && t->dtype == KS_F32)
        return;
    make_inputs(&d, a, t);
    make_tables(&d, a);
    double *want = attention_reference(a, &d);
    upload(&d.y);
    run_attention(a, t->dtype, d.y.act, d.q.act, d.k.act, d.v.act, d.device_row, d.device_length);
    download(&d.y);
    const double error = distance(&d.y, want);
    const int gaps = gaps_untouched(&d.y);
    const int same = attention_rows_keep_bits(a, &d);
    char what[96];
    snprintf(what, sizeof what, "attention %dx%d keys %d heads %d width %d%s%s%s%s%s%s", a->n,
             a->q_tokens, a->kv_tokens, a->heads, a->width, a->causal ? " causal" : "",
             a->kv_row ? " rows" : "", a->kv_len ? " lengths" : "", a->fused ? " fused" : "",
             a->skewed ? " skewed" : "", a->rising ? " rising" : "");
    report(what, t, error, t->bound, same, gaps);
    free(want);
    attention_free(&d, a);
}

/* ---- norms ---- */

typedef struct norm_case {
    int n, h, w, c, groups; /* groups 0: layer norm */
    int silu, in_place, skewed;
    float mean;
} norm_case;

static const norm_case norm_cases[] = {
    {3, 16, 16, 320, 32, 1, 0, 0, 0.5f}, {2, 64, 64, 320, 32, 1, 0, 0, 2.0f},
    {2, 64, 64, 320, 32, 0, 1, 0, 2.0f}, {2, 32, 32, 640, 32, 1, 0, 0, 1.0f},
    {2, 8, 8, 1280, 32, 1, 1, 0, 0.0f},  {2, 32, 32, 1920, 32, 1, 0, 0, 1.0f},
    {2, 32, 32, 2560, 32, 1, 0, 0, 1.0f}, {2, 13, 7, 960, 32, 1, 0, 0, 1.0f},
    {2, 64, 64, 128, 32, 1, 0, 0, 3.0f}, {2, 100, 90, 128, 32, 1, 0, 0, 3.0f},
    {2, 9, 5, 64, 32, 0, 0, 0, 1.0f},    {2, 9, 5, 96, 8, 1, 0, 0, 1.0f},
    {2, 9, 5, 30, 5, 1, 0, 1, 1.0f},     {2, 9, 5, 320, 32, 1, 0, 1, 1.0f},
    {2, 1, 1, 32, 32, 0, 0, 0, 1.0f},    {2, 17, 15, 320, 32, 0, 0, 0, 2.0f},
    {2, 31, 29, 1280, 32, 1, 1, 0, 1.0f}, {2, 61, 63, 640, 32, 1, 0, 0, 1.0f},
    {2, 67, 61, 320, 32, 1, 1, 0, 1.0f}, {2, 17, 19, 256, 1, 1, 0, 0, 1.0f},
    {2, 97, 101, 320, 32, 0, 1, 0, 1.0f},
    {1, 125, 127, 960, 32, 1, 0, 0, 1.0f}, {2, 33, 31, 320, 32, 1, 0, 0, 3.0f},
    {3, 77, 1, 768, 0, 0, 0, 0, 1.0f},
    {3, 100, 1, 640, 0, 0, 0, 0, 2.0f},  {3, 33, 1, 1280, 0, 0, 1, 0, 2.0f},
    {2, 33, 1, 2048, 0, 0, 0, 0, 0.0f},  {2, 33, 1, 320, 0, 0, 0, 0, 0.0f},
    {2, 33, 1, 48, 0, 0, 0, 0, 1.0f},    {2, 33, 1, 1001, 0, 0, 0, 0, 1.0f},
    {2, 33, 1, 640, 0, 0, 0, 1, 1.0f},   {2, 5, 1, 5000, 0, 0, 0, 0, 1.0f},
};

typedef struct norm_data {
    tensor x, y;
    float *gamma, *beta, *device_gamma, *device_beta;
} norm_data;

/* Ways to make a group norm: each that there is, and the one that is taken. */
enum { TAKEN = KS_CUDA_NORM_WAYS };
static const char *const way_names[] = {"clusters", "blocks", "passes", "taken"};

/* false: that way cannot do it. */
static int run_norm(const norm_case *a, int way, const element_type *t, ks_act y, ks_act x,
                    const norm_data *d)
{
    const float eps = 1e-5f;
    if (a->groups == 0) {
        must(ks_cuda_layer_norm(NULL, t->dtype, y, x, d->device_gamma, d->device_beta, eps),
             "layer norm");
        return 1;
    }
    const size_t bytes = ks_cuda_group_norm_workspace(x.n, a->groups, (int64_t)x.h * x.w, x.c);
    void *workspace = device_memory(bytes);
    must((int)cudaMemset(workspace, POISON, bytes), "cudaMemset");
    const int code =
        way == TAKEN ? ks_cuda_group_norm(NULL, t->dtype, y, x, d->device_gamma, d->device_beta,
                                          a->groups, eps, a->silu != 0, workspace, bytes)
                     : ks_cuda_group_norm_by((ks_cuda_norm_way)way, NULL, t->dtype, y, x,
                                             d->device_gamma, d->device_beta, a->groups, eps,
                                             a->silu != 0, workspace, bytes);
    if (code != (int)cudaErrorNotSupported || way == TAKEN)
        must(code, "group norm");
    must((int)cudaDeviceSynchronize(), "group norm");
    must((int)cudaFree(workspace), "cudaFree");
    return code == (int)cudaSuccess;
}

/* Pixels [first, first + pixels) and channels [from, from + width) of a row, in double. */
static void normalise(const norm_case *a, const norm_data *d, int row, int first, int pixels,
                      int from, int width, double *want)
{
    double sum = 0.0, square = 0.0;
    for (int p = first; p < first + pixels; p++)
        for (int c = from; c < from + width; c++)
            sum += value(&d->x, row, p, c);
    const double mean = sum / ((double)pixels * width);
    for (int p = first; p < first + pixels; p++)
        for (int c = from; c < from + width; c++)
            square += (value(&d->x, row, p, c) - mean) * (value(&d->x, row, p, c) - mean);
    const double scale = 1.0 / sqrt(square / ((double)pixels * width) + (double)1e-5f);
    for (int p = first; p < first + pixels; p++)
        for (int c = from; c < from + width; c++) {
            double y = (value(&d->x, row, p, c) - mean) * scale * (double)d->gamma[c] +
                       (double)d->beta[c];
            if (a->silu)
                y /= 1.0 + exp(-y);
            want[((size_t)row * (size_t)(a->h * a->w) + (size_t)p) * (size_t)a->c + (size_t)c] = y;
        }
}

static double *norm_reference(const norm_case *a, const norm_data *d)
{
    const int pixels = a->h * a->w;
    double *want =
        host_memory((size_t)a->n * (size_t)pixels * (size_t)a->c * sizeof *want);
    for (int i = 0; i < a->n; i++) {
        for (int p = 0; a->groups == 0 && p < pixels; p++)
            normalise(a, d, i, p, 1, 0, a->c, want);
        for (int g = 0; g < a->groups; g++)
            normalise(a, d, i, 0, pixels, g * (a->c / a->groups), a->c / a->groups, want);
    }
    return want;
}

static void norm_new(norm_data *d, const norm_case *a, const element_type *t)
{
    const int64_t stride = a->skewed ? a->c + 3 : a->c % 8 == 0 ? a->c + 8 : a->c;
    const size_t skip = a->skewed ? 1 : 0, bytes = (size_t)a->c * sizeof(float);
    d->x = tensor_new(t, a->n, a->h, a->w, a->c, stride, skip);
    d->y = tensor_new(t, a->n, a->h, a->w, a->c, stride, skip);
    fill(&d->x, a->mean, 1.0f);
    d->gamma = host_memory(bytes);
    d->beta = host_memory(bytes);
    for (int c = 0; c < a->c; c++) {
        d->gamma[c] = 1.0f + 0.2f * normal();
        d->beta[c] = 0.3f * normal();
    }
    d->device_gamma = device_memory(bytes);
    d->device_beta = device_memory(bytes);
    must((int)cudaMemcpy(d->device_gamma, d->gamma, bytes, cudaMemcpyHostToDevice), "upload");
    must((int)cudaMemcpy(d->device_beta, d->beta, bytes, cudaMemcpyHostToDevice), "upload");
}

static void norm_free(norm_data *d)
{
    tensor_free(&d->x);
    tensor_free(&d->y);
    free(d->gamma);
    free(d->beta);
    must((int)cudaFree(d->device_gamma), "cudaFree");
    must((int)cudaFree(d->device_beta), "cudaFree");
}

static int norm_rows_keep_bits(const norm_case *a, int way, const element_type *t, norm_data *d)
{
    unsigned char *together = host_memory(d->y.bytes);
    memcpy(together, d->y.host, d->y.bytes);
    memset(d->y.host, POISON, d->y.bytes);
    upload(&d->y);
    for (int i = 0; i < a->n; i++) {
        ks_act x = d->x.act, y = d->y.act;
        const size_t at = (size_t)(i * a->h * a->w) * (size_t)x.stride * t->size;
        x.n = y.n = 1;
        x.data = (unsigned char *)x.data + at;
        y.data = (unsigned char *)y.data + at;
        run_norm(a, way, t, y, x, d);
    }
    download(&d->y);
    const int same = memcmp(together, d->y.host, d->y.bytes) == 0;
    free(together);
    return same;
}

/* The sizes of clusters that were tried, a bit each. */
static unsigned cluster_sizes;

static void check_way(const norm_case *a, int way, const element_type *t, norm_data *d,
                      const double *want)
{
    char what[128];
    memset(d->y.host, POISON, d->y.bytes);
    if (a->in_place)
        must((int)cudaMemcpy(d->y.memory, d->x.memory, d->x.bytes, cudaMemcpyDeviceToDevice),
             "copy");
    else
        upload(&d->y);
    if (!run_norm(a, way, t, d->y.act, a->in_place ? d->y.act : d->x.act, d))
        return;
    const int ranks = a->groups ? ks_cuda_group_norm_cluster(t->dtype, d->x.act, a->groups) : 0;
    if (way == KS_CUDA_NORM_CLUSTERS)
        cluster_sizes |= 1u << ranks;
    download(&d->y);
    const double error = distance(&d->y, want);
    const int gaps = gaps_untouched(&d->y);
    const int same = norm_rows_keep_bits(a, way, t, d);
    snprintf(what, sizeof what, "%s norm %dx%dx%dx%d groups %d%s%s%s %s",
             a->groups ? "group" : "layer", a->n, a->h, a->w, a->c, a->groups,
             a->silu ? " silu" : "", a->in_place ? " in place" : "", a->skewed ? " skewed" : "",
             a->groups ? way_names[way] : "");
    if (way == KS_CUDA_NORM_CLUSTERS)
        snprintf(what + strlen(what), sizeof what - strlen(what), " of %d", ranks);
    report(what, t, error, t->bound, same, gaps);
}

/* The mean and 1 / deviation of each token, in double. */
static double *moments_reference(const norm_case *a, const norm_data *d)
{
    const int tokens = a->n * a->h * a->w;
    double *want = host_memory((size_t)tokens * 2 * sizeof *want);
    for (int t = 0; t < tokens; t++) {
        double sum = 0.0, square = 0.0;
        for (int c = 0; c < a->c; c++)
            sum += value(&d->x, 0, t, c);
        for (int c = 0; c < a->c; c++)
            square += (value(&d->x, 0, t, c) - sum / a->c) * (value(&d->x, 0, t, c) - sum / a->c);
        want[2 * t] = sum / a->c;
        want[2 * t + 1] = 1.0 / sqrt(square / a->c + (double)1e-5f);
    }
    return want;
}

/* The moments of a layer norm's tokens. */
static void check_moments(const norm_case *a, const element_type *t, const norm_data *d)
{
    const int tokens = a->n * a->h * a->w;
    const size_t count = (size_t)tokens * 2, bytes = count * sizeof(float);
    double *want = moments_reference(a, d), apart = 0.0, size = 0.0;
    float *device = device_memory(bytes), *got = host_memory(bytes);
    char what[96];
    must((int)cudaMemset(device, POISON, bytes), "cudaMemset");
    must(ks_cuda_layer_moments(NULL, t->dtype, device, d->x.act, 1e-5f), "moments");
    must((int)cudaMemcpy(got, device, bytes, cudaMemcpyDeviceToHost), "download");
    for (size_t i = 0; i < count; i++) {
        apart += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += want[i] * want[i];
    }
    snprintf(what, sizeof what, "moments %d x %d%s", tokens, a->c, a->skewed ? " skewed" : "");
    report(what, t, isnan(apart) ? INFINITY : sqrt(apart / size), 1e-6, 1, 1);
    must((int)cudaFree(device), "cudaFree");
    free(want);
    free(got);
}

/* A group norm by every way that can do it, and as it is taken; a layer norm. */
static void check_norm(const norm_case *a, const element_type *t)
{
    norm_data d = {0};
    norm_new(&d, a, t);
    double *want = norm_reference(a, &d);
    for (int way = a->groups ? 0 : TAKEN; way <= TAKEN; way++)
        check_way(a, way, t, &d, want);
    if (a->groups == 0)
        check_moments(a, t, &d);
    free(want);
    norm_free(&d);
}

/* On a chip with clusters every size was tried. */
static void check_cluster_sizes(void)
{
    const unsigned all = 1u << 2 | 1u << 4 | 1u << 8 | 1u << 16;
    struct cudaDeviceProp chip;
    must((int)cudaGetDeviceProperties(&chip, 0), "the chip");
    if (chip.major < 9 || cluster_sizes == all)
        return;
    printf("group norm: not all sizes of clusters were tried: 0x%x of 0x%x\n", cluster_sizes, all);
    failures++;
}

/* ---- time ---- */

enum { SETS = 4, CALLS = 8, REPEATS = 11 };

/* Device memory of random normals, rotated through so that the caches hold none of it. */
static unsigned char *random_memory(const element_type *t, size_t bytes)
{
    const size_t block = (size_t)1 << 24;
    unsigned char *memory = device_memory(bytes), *host = host_memory(block);
    for (size_t i = 0; i < block / t->size; i++)
        put(t, host, i, normal());
    for (size_t at = 0; at < bytes; at += block)
        must((int)cudaMemcpy(memory + at, host, bytes - at < block ? bytes - at : block,
                             cudaMemcpyHostToDevice),
             "upload");
    free(host);
    return memory;
}

static int compare_floats(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Median milliseconds of run(self, set). */
static double time_of(void (*run)(void *self, int set), void *self)
{
    cudaEvent_t start, stop;
    float ms[REPEATS];
    must((int)cudaEventCreate(&start), "event");
    must((int)cudaEventCreate(&stop), "event");
    for (int i = 0; i < 2 * SETS; i++)
        run(self, i % SETS);
    for (int r = 0; r < REPEATS; r++) {
        must((int)cudaEventRecord(start, NULL), "event");
        for (int i = 0; i < CALLS; i++)
            run(self, i % SETS);
        must((int)cudaEventRecord(stop, NULL), "event");
        must((int)cudaEventSynchronize(stop), "event");
        must((int)cudaEventElapsedTime(ms + r, start, stop), "event");
    }
    must((int)cudaEventDestroy(start), "event");
    must((int)cudaEventDestroy(stop), "event");
    qsort(ms, REPEATS, sizeof *ms, compare_floats);
    return (double)ms[REPEATS / 2] / CALLS;
}

typedef struct timed {
    const element_type *type;
    int n, tokens, keys, heads, width; /* attention */
    int h, w, c, groups;               /* norms */
    unsigned char *x, *k, *v, *y;
    size_t x_bytes, k_bytes; /* of one set */
    float *gamma, *beta;
    void *workspace;
    size_t workspace_bytes;
} timed;

static void timed_attention(void *self, int set)
{
    timed *t = self;
    const int c = t->heads * t->width;
    const size_t x = (size_t)set * t->x_bytes, k = (size_t)set * t->k_bytes;
    const ks_act q = {t->x + x, t->n, t->tokens, 1, c, c}, y = {t->y + x, t->n, t->tokens, 1, c, c};
    const ks_act key = {t->k + k, t->n, t->keys, 1, c, c}, v = {t->v + k, t->n, t->keys, 1, c, c};
    must(ks_cuda_attention(NULL, t->type->dtype, y, q, key, v, t->heads, false, NULL, NULL,
                           t->workspace, t->workspace_bytes),
         "attention");
}

static void timed_norm(void *self, int set)
{
    timed *t = self;
    const size_t at = (size_t)set * t->x_bytes;
    const ks_act x = {t->x + at, t->n, t->h, t->w, t->c, t->c};
    const ks_act y = {t->y + at, t->n, t->h, t->w, t->c, t->c};
    if (t->groups)
        must(ks_cuda_group_norm(NULL, t->type->dtype, y, x, t->gamma, t->beta, t->groups, 1e-5f,
                                true, t->workspace, t->workspace_bytes),
             "group norm");
    else
        must(ks_cuda_layer_norm(NULL, t->type->dtype, y, x, t->gamma, t->beta, 1e-5f),
             "layer norm");
}

static void time_attention(const element_type *type, int n, int tokens, int keys, int heads,
                           int width)
{
    timed t = {.type = type, .n = n, .tokens = tokens, .keys = keys, .heads = heads,
               .width = width};
    const size_t c = (size_t)(heads * width);
    t.x_bytes = (size_t)n * (size_t)tokens * c * type->size;
    t.k_bytes = (size_t)n * (size_t)keys * c * type->size;
    t.x = random_memory(type, SETS * t.x_bytes);
    t.k = random_memory(type, SETS * t.k_bytes);
    t.v = random_memory(type, SETS * t.k_bytes);
    t.y = device_memory(SETS * t.x_bytes);
    t.workspace_bytes =
        ks_cuda_attention_workspace(type->dtype, n, tokens, keys, heads, width);
    t.workspace = device_memory(t.workspace_bytes);
    const double ms = time_of(timed_attention, &t);
    const double operations = 4.0 * n * (double)tokens * keys * (double)c;
    printf("attention %2d x %4d tokens, %4d keys, %2d x %3d   %s  %8.4f ms  %6.1f TFLOP/s  "
           "%5.2f TB/s\n",
           n, tokens, keys, heads, width, type->name, ms, operations / ms * 1e-9,
           2.0 * (double)(t.x_bytes + t.k_bytes) / ms * 1e-9);
    void *all[] = {t.x, t.k, t.v, t.y, t.workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        must((int)cudaFree(all[i]), "cudaFree");
}

static void time_norm(const element_type *type, int n, int h, int w, int c, int groups)
{
    timed t = {.type = type, .n = n, .h = h, .w = w, .c = c, .groups = groups};
    t.x_bytes = (size_t)n * (size_t)(h * w) * (size_t)c * type->size;
    t.x = random_memory(type, SETS * t.x_bytes);
    t.y = device_memory(SETS * t.x_bytes);
    t.gamma = (float *)(void *)random_memory(&types[0], (size_t)c * sizeof(float));
    t.beta = (float *)(void *)random_memory(&types[0], (size_t)c * sizeof(float));
    t.workspace_bytes =
        groups ? ks_cuda_group_norm_workspace(n, groups, (int64_t)h * w, c) : 0;
    t.workspace = device_memory(t.workspace_bytes);
    const double ms = time_of(timed_norm, &t);
    printf("%s norm %2d x %3d x %3d x %4d            %s  %8.4f ms  %5.2f TB/s (one read, one "
           "write)\n",
           groups ? "group" : "layer", n, h, w, c, type->name, ms,
           2.0 * (double)t.x_bytes / ms * 1e-9);
    void *all[] = {t.x, t.y, t.gamma, t.beta, t.workspace};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        must((int)cudaFree(all[i]), "cudaFree");
}

static void time_all(void)
{
    static const int attention[][5] = {
        {16, 4096, 4096, 10, 64}, {16, 1024, 1024, 20, 64}, {16, 4096, 77, 10, 64},
        {16, 1024, 77, 20, 64},   {2, 4096, 4096, 10, 64},  {2, 1024, 1024, 20, 64},
        {16, 4096, 4096, 8, 40},  {16, 1024, 1024, 8, 80},  {16, 256, 256, 8, 160},
        {16, 4096, 77, 8, 40},    {16, 1024, 77, 8, 80},    {1, 16384, 16384, 1, 512},
    };
    static const int norm[][5] = {
        {16, 128, 128, 320, 32}, {16, 64, 64, 640, 32}, {16, 32, 32, 1280, 32},
        {2, 128, 128, 320, 32},  {2, 32, 32, 1280, 32}, {16, 32, 32, 2560, 32},
        {16, 64, 64, 320, 32},   {16, 64, 64, 640, 0},  {16, 32, 32, 1280, 0},
    };
    for (size_t i = 0; i < sizeof attention / sizeof *attention; i++) {
        const int *a = attention[i];
        time_attention(&types[1], a[0], a[1], a[2], a[3], a[4]);
    }
    time_attention(&types[2], 16, 4096, 4096, 10, 64);
    time_attention(&types[0], 2, 4096, 4096, 10, 64);
    for (size_t i = 0; i < sizeof norm / sizeof *norm; i++)
        time_norm(&types[1], norm[i][0], norm[i][1], norm[i][2], norm[i][3], norm[i][4]);
    time_norm(&types[0], 2, 64, 64, 320, 32);
}

static void check_all(void)
{
    for (size_t i = 0; i < sizeof attention_cases / sizeof *attention_cases; i++)
        for (int t = 0; t < TYPES; t++)
            check_attention(&attention_cases[i], &types[t]);
    for (size_t i = 0; i < sizeof norm_cases / sizeof *norm_cases; i++)
        for (int t = 0; t < TYPES; t++)
            check_norm(&norm_cases[i], &types[t]);
    check_cluster_sizes();
}

int main(int argc, char **argv)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        fprintf(stderr, "skipped: no NVIDIA GPU here\n");
        return NO_GPU;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 2 || strcmp(argv[1], "--time") != 0)
        check_all();
    if (argc < 2 || strcmp(argv[1], "--check") != 0)
        time_all();
    printf("%d failed\n", failures);
    return failures ? 1 : 0;
}
