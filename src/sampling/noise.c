#include "sampling/noise.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/mt19937.h"
#include "sampling/normals.h"

enum { H200_MULTIPROCESSORS = 132, MAX_MULTIPROCESSORS = 65536 };

_Static_assert(sizeof(((ks_generator *)0)->mt) / sizeof(uint32_t) == KS_MT_WORDS,
               "MT19937's state");

int ks_noise_device_parse(const char *text, ks_noise_device *out, ks_error *err)
{
    if (strcmp(text, "cpu") == 0) {
        *out = (ks_noise_device){KS_NOISE_CPU, 0};
        return 0;
    }
    if (strcmp(text, "cuda") == 0) {
        *out = (ks_noise_device){KS_NOISE_CUDA, H200_MULTIPROCESSORS};
        return 0;
    }
    if (strncmp(text, "cuda:", 5) == 0 && text[5] >= '1' && text[5] <= '9') {
        char *end;
        errno = 0;
        long count = strtol(text + 5, &end, 10);
        if (*end == 0 && errno == 0 && count <= MAX_MULTIPROCESSORS) {
            *out = (ks_noise_device){KS_NOISE_CUDA, (int)count};
            return 0;
        }
    }
    return ks_error_set(
        err,
        "noise_device \"%.40s\" is not known: \"cuda\", \"cuda:N\" with N the GPU's number of "
        "multiprocessors (1 to %d), or \"cpu\"",
        text, MAX_MULTIPROCESSORS);
}

void ks_generator_seed(ks_generator *g, ks_noise_device device, uint64_t seed)
{
    memset(g, 0, sizeof *g);
    g->device = device;
    g->seed = seed;
    if (device.kind == KS_NOISE_CPU)
        ks_mt19937_seed(g->mt, &g->mt_next, (uint32_t)seed);
}

/* A double in [0, 1) from 53 bits, the first word being the high one. */
static double uniform53(ks_generator *g)
{
    uint32_t word[2];
    ks_mt19937_words(g->mt, &g->mt_next, word, 2);
    uint64_t bits = ((uint64_t)word[0] << 32 | word[1]) & ((UINT64_C(1) << 53) - 1);
    return (double)bits * 0x1p-53;
}

/* One normal; its partner waits for the next call. In long double, so that the C library's choice
 * of a double log or sin for this machine cannot show in the float. */
static float scalar_normal(ks_generator *g)
{
    if (g->has_cached) {
        g->has_cached = 0;
        return (float)g->cached;
    }
    double a = uniform53(g), b = uniform53(g);
    long double radius = sqrtl(-2.0L * log1pl(-(long double)b));
    long double angle = 2.0L * 3.14159265358979323846L * (long double)a;
    g->cached = (double)(radius * sinl(angle));
    g->has_cached = 1;
    return (float)(radius * cosl(angle));
}

/* n >= 16: uniforms are drawn for all n; a ragged end is a block of its own over the last 16. */
static void cpu_normal(ks_generator *g, float *out, int64_t n)
{
    uint32_t words[KS_NORMAL_BLOCKS * KS_NORMAL_BLOCK];
    int64_t blocks = n / KS_NORMAL_BLOCK, ragged = n % KS_NORMAL_BLOCK;
    for (float *to = out; blocks > 0;) {
        int part = blocks < KS_NORMAL_BLOCKS ? (int)blocks : KS_NORMAL_BLOCKS;
        ks_mt19937_words(g->mt, &g->mt_next, words, part * KS_NORMAL_BLOCK);
        ks_normal_blocks(words, to, part);
        to += part * KS_NORMAL_BLOCK;
        blocks -= part;
    }
    if (ragged) {
        ks_mt19937_words(g->mt, &g->mt_next, NULL, ragged);
        ks_mt19937_words(g->mt, &g->mt_next, words, KS_NORMAL_BLOCK);
        ks_normal_blocks(words, out + n - KS_NORMAL_BLOCK, 1);
    }
}

/* What is left when every thread has had its element goes in rounds, of four values a thread each. */
static int64_t cuda_rounds(const ks_generator *g, int64_t n)
{
    int64_t values = 4 * ks_philox_grid(n, g->device.multiprocessors);
    return (n + values - 1) / values;
}

static void cuda_normal(ks_generator *g, float *out, int64_t n)
{
    float value[4][KS_PHILOX_THREADS];
    int64_t threads = ks_philox_grid(n, g->device.multiprocessors), rounds = cuda_rounds(g, n);
    for (int64_t round = 0; round < rounds; round++)
        for (int64_t first = 0; first < threads; first += KS_PHILOX_THREADS) {
            int64_t start = round * 4 * threads + first;
            if (start >= n)
                break;
            int64_t left = threads - first, more = (n - start + threads - 1) / threads;
            int count = left < KS_PHILOX_THREADS ? (int)left : KS_PHILOX_THREADS;
            int rows = more < 4 ? (int)more : 4;
            ks_philox_normals(g->seed, g->block + (uint64_t)round, (uint32_t)first, count, rows,
                              value);
            for (int row = 0; row < rows; row++, start += threads) {
                int64_t room = n - start < count ? n - start : count;
                memcpy(out + start, value[row], (size_t)room * sizeof *out);
            }
        }
    g->block += (uint64_t)rounds;
}

void ks_generator_normal(ks_generator *g, float *out, int64_t n)
{
    if (n <= 0)
        return;
    if (g->device.kind == KS_NOISE_CUDA)
        cuda_normal(g, out, n);
    else if (n >= KS_NORMAL_BLOCK)
        cpu_normal(g, out, n);
    else
        for (int64_t i = 0; i < n; i++)
            out[i] = scalar_normal(g);
}

int64_t ks_noise_words(int64_t n)
{
    return n + (n % KS_NORMAL_BLOCK ? KS_NORMAL_BLOCK : 0);
}

void ks_generator_skip(ks_generator *g, int64_t n)
{
    float unused[KS_NORMAL_BLOCK];
    if (n <= 0)
        return;
    if (g->device.kind == KS_NOISE_CUDA)
        g->block += (uint64_t)cuda_rounds(g, n);
    else if (n >= KS_NORMAL_BLOCK)
        ks_mt19937_words(g->mt, &g->mt_next, NULL, ks_noise_words(n));
    else
        ks_generator_normal(g, unused, n);
}

/* Draw number `draw` into every item that wants it; later ones are copies of the first. */
static void draw_items(ks_generator *g, int64_t draw, int batch, int64_t per_item,
                       const int64_t *batch_index, float *out)
{
    const float *done = NULL;
    for (int k = 0; k < batch; k++) {
        float *item = out + k * per_item;
        if (batch_index[k] != draw)
            continue;
        if (done)
            memcpy(item, done, (size_t)per_item * sizeof *item);
        else
            ks_generator_normal(g, item, per_item);
        done = item;
    }
    if (!done)
        ks_generator_skip(g, per_item);
}

void ks_noise_prepare(uint64_t seed, int batch, int64_t per_item, const int64_t *batch_index,
                      float *out)
{
    ks_generator g;
    ks_generator_seed(&g, (ks_noise_device){KS_NOISE_CPU, 0}, seed);
    if (!batch_index) {
        ks_generator_normal(&g, out, batch * per_item);
        return;
    }
    int64_t last = -1;
    for (int k = 0; k < batch; k++)
        last = batch_index[k] > last ? batch_index[k] : last;
    for (int64_t draw = 0; draw <= last; draw++)
        draw_items(&g, draw, batch, per_item, batch_index, out);
}
