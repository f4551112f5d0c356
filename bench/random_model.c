#include "random_model.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/threads.h"

const random_model random_models[RANDOM_MODELS] = {
    {"sdxl",
     {"model.diffusion_model.", 4, 4, 320, 3, {1, 2, 4}, 2, {0, 2, 10}, 10, 1, 2048, 2816},
     128},
    {"sd15",
     {"model.diffusion_model.", 4, 4, 320, 4, {1, 2, 4, 4}, 2, {1, 1, 1, 0}, 1, 0, 768, 0},
     64},
};

/* --- numbers --- */

/* Marsaglia 2003, Xorshift RNGs; state is never 0. */
static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

void random_normals(float *to, size_t n, uint64_t seed)
{
    uint64_t state = (seed + 1) * 0x9E3779B97F4A7C15u;
    for (size_t i = 0; i < n; i++) { /* Box and Muller 1958 */
        double u = ((double)(next(&state) >> 12) + 1) * 0x1p-52;
        double v = (double)(next(&state) >> 12) * 0x1p-52;
        to[i] = (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    }
}

/* The nearest float16's bits, |x| < 65504. */
static uint16_t half_of(double x)
{
    int exponent;
    const double mantissa = frexp(fabs(x), &exponent); /* 0.5 to 1; x = mantissa * 2^exponent */
    const int sign = x < 0 ? 0x8000 : 0;
    if (exponent < -13) /* less than the smallest normal one */
        return (uint16_t)(sign | (int)lrint(ldexp(fabs(x), 24)));
    return (uint16_t)(sign | (((exponent + 14) << 10) + (int)lrint(mantissa * 2048) - 1024));
}

/* --- tensors --- */

typedef struct spread {
    double mean, deviation;
} spread;

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* What ends a residual branch. */
static bool ends_branch(const char *name)
{
    static const char *const ends[] = {".proj_out.weight", ".out_layers.3.weight",
                                       ".to_out.0.weight", ".ff.net.2.weight"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i]))
            return true;
    return false;
}

static spread spread_of(const char *name, int rank, const int64_t *shape)
{
    double inputs = 1;
    for (int i = 1; i < rank; i++)
        inputs *= (double)shape[i];
    if (rank > 1)
        return (spread){0, (ends_branch(name) ? 0.3 : 1.0) / sqrt(inputs)};
    return ends_with(name, ".bias") ? (spread){0, 0.02} : (spread){1, 0.1};
}

enum { TABLE = 4096 }; /* numbers that a tensor's values are drawn from: 12 bits choose one */

typedef struct filling {
    checkpoint *c;
    char *data;
    size_t *first; /* where each tensor begins */
    float normal[TABLE];
} filling;

static void fill_tensor(void *arg, int index, int worker)
{
    (void)worker;
    const filling *f = arg;
    const char *name = checkpoint_name(f->c, index);
    int rank;
    int64_t shape[8];
    checkpoint_shape(f->c, name, &rank, shape);
    const spread s = spread_of(name, rank, shape);
    uint16_t table[TABLE];
    for (int i = 0; i < TABLE; i++)
        table[i] = half_of(s.mean + s.deviation * (double)f->normal[i]);
    uint64_t state = ((uint64_t)index + 1) * 0x9E3779B97F4A7C15u;
    char *to = f->data + f->first[index];
    for (size_t left = f->first[index + 1] - f->first[index]; left > 0;) {
        uint64_t bits = next(&state) >> 4;
        for (int k = 0; k < 5 && left > 0; k++, bits >>= 12, to += 2, left -= 2)
            memcpy(to, &table[bits % TABLE], 2); /* the file may put it at an odd address */
    }
}

/* --- the file --- */

static size_t *first_bytes(checkpoint *c)
{
    const int n = checkpoint_count(c);
    size_t *first = ks_calloc((size_t)n + 1, sizeof *first);
    for (int i = 0; i < n; i++) {
        int rank;
        int64_t shape[8];
        size_t bytes = 2;
        checkpoint_shape(c, checkpoint_name(c, i), &rank, shape);
        for (int k = 0; k < rank; k++)
            bytes *= (size_t)shape[k];
        first[i + 1] = first[i] + bytes;
    }
    return first;
}

static int fill(checkpoint *c, char *data, ks_error *err)
{
    ks_threads *threads = ks_threads_new(0, err);
    if (!threads)
        return -1;
    filling f = {.c = c, .data = data, .first = first_bytes(c)};
    random_normals(f.normal, TABLE, 0);
    ks_threads_run(threads, checkpoint_count(c), fill_tensor, &f);
    free(f.first);
    ks_threads_free(threads);
    return 0;
}

/* Writes the numbers behind the file's header. */
static int randomise(checkpoint *c, const char *path, ks_error *err)
{
    struct stat s;
    int result = -1, file = open(path, O_RDWR);
    if (file < 0 || fstat(file, &s) != 0)
        goto cleanup;
    /* Real pages before they are touched: a full file system is an error here, no signal later. */
    if ((errno = posix_fallocate(file, 0, s.st_size)) != 0)
        goto cleanup;
    char *map = mmap(NULL, (size_t)s.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map == MAP_FAILED)
        goto cleanup;
    uint64_t header;
    memcpy(&header, map, sizeof header);
    result = fill(c, map + sizeof header + header, err);
    munmap(map, (size_t)s.st_size);
    close(file);
    return result;
cleanup:
    ks_error_set(err, "%s: %s", path, strerror(errno));
    if (file >= 0)
        close(file);
    return result;
}

char *random_model_file(const random_model *m, const char *folder, ks_error *err)
{
    char *path = ks_format("%s/random-%s.safetensors", folder, m->name);
    if (access(path, R_OK) == 0)
        return path;
    char *part = ks_format("%s.part", path);
    checkpoint *c = checkpoint_new();
    checkpoint_add_unet(c, "F16", &m->unet);
    checkpoint_write(c, part);
    int result = randomise(c, part, err);
    if (result == 0 && rename(part, path) != 0)
        result = ks_error_set(err, "%s cannot be renamed: %s", part, strerror(errno));
    checkpoint_free(c);
    free(part);
    if (result == 0)
        return path;
    free(path);
    return NULL;
}

float *random_latents(ks_ops *ops, size_t n, ks_error *err)
{
    float *host = ks_calloc(n, sizeof *host), *latents = ops->alloc(ops, n * sizeof *latents, err);
    if (latents) {
        random_normals(host, n, 3);
        ops->upload(ops, latents, host, n * sizeof *latents);
    }
    free(host);
    return latents;
}

int random_conditionings(const random_model *m, ks_model *model, ks_cond **cond, int count, ks_error *err)
{
    const size_t context = 77u * (size_t)m->unet.context, vector = (size_t)m->unet.vector;
    float *numbers = ks_calloc(context + vector, sizeof *numbers);
    int made = 0;
    for (; made < count; made++) {
        random_normals(numbers, context + vector, 1 + (uint64_t)made);
        cond[made] = ks_cond_new(model, numbers, 77, vector ? numbers + context : NULL, err);
        if (!cond[made])
            break;
    }
    free(numbers);
    return made == count ? 0 : -1;
}
