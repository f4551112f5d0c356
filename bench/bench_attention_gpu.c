/* The attention of SDXL at 1024 x 1024 and SD 1.5 at 512 x 512 on a GPU, on random numbers, and
 * what all of a UNet call's come to.
 *   bench_attention_gpu [--kernels] [PRECISION [ROWS...]]     fp16, 16 2
 * --kernels: self-attention alone, by each kernel that can; ends with an error where one's result
 * is not that of the chosen one.
 *
 * Self-attention reads thirds of one tensor, as the networks do; cross-attention 77 keys of two
 * conditionings in turn. A time is the median of replays of a graph of calls, each on
 * other memory than the last, so that nothing is in the cache but what a call itself put there.
 * TB/s counts q and y once, and k and v once a row. */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/attention.h"
#include "kernels/elementwise.h"
#include "kernels/parameters.h"
#include "gpu_bench.h"

enum { SETS = 2, CONDITIONINGS = 2, PROMPT = 77 };

typedef struct shape {
    const char *model;
    int tokens, heads, width, cross;
    int count; /* in a UNet call */
} shape;

static const shape shapes[] = {
    {"sdxl", 4096, 10, 64, 0, 10}, {"sdxl", 1024, 20, 64, 0, 60}, {"sdxl", 4096, 10, 64, 1, 10},
    {"sdxl", 1024, 20, 64, 1, 60}, {"sd15", 4096, 8, 40, 0, 5},   {"sd15", 1024, 8, 80, 0, 5},
    {"sd15", 256, 8, 160, 0, 5},   {"sd15", 64, 8, 160, 0, 1},    {"sd15", 4096, 8, 40, 1, 5},
    {"sd15", 1024, 8, 80, 1, 5},   {"sd15", 256, 8, 160, 1, 5},   {"sd15", 64, 8, 160, 1, 1},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* The arrays of one call. */
typedef struct operands {
    ks_act y, q, k, v;
    void *memory[3];
} operands;

/* Channels [first, first + c) of every token. */
static ks_act slice(ks_act a, ks_dtype type, int first, int c)
{
    a.data = (char *)a.data + (size_t)first * (type == KS_F32 ? 4 : 2);
    a.c = c;
    return a;
}

static operands new_operands(const shape *s, ks_dtype type, int rows, uint32_t seed)
{
    const int c = s->heads * s->width;
    operands o = {.y = random_tensor(type, rows, s->tokens, 1, c, seed)};
    const ks_act q = random_tensor(type, rows, s->tokens, 1, s->cross ? c : 3 * c, seed + 1);
    o.q = slice(q, type, 0, c);
    o.memory[0] = o.y.data;
    o.memory[1] = q.data;
    if (s->cross) {
        const ks_act kv = random_tensor(type, CONDITIONINGS, PROMPT, 1, 2 * c, seed + 2);
        o.memory[2] = kv.data;
        o.k = slice(kv, type, 0, c);
        o.v = slice(kv, type, c, c);
    } else {
        o.k = slice(q, type, c, c);
        o.v = slice(q, type, 2 * c, c);
    }
    return o;
}

static void new_sets(operands o[SETS], const shape *s, ks_dtype type, int rows)
{
    for (int i = 0; i < SETS; i++)
        o[i] = new_operands(s, type, rows, 10 * (uint32_t)i);
}

static void free_sets(operands o[SETS])
{
    for (int i = 0; i < SETS; i++)
        for (int m = 0; m < 3; m++)
            must((int)cudaFree(o[i].memory[m]), "cudaFree");
}

/* One call, by a kernel or the one that is chosen (NULL); a cudaError_t. kv_row: device [rows]. */
static int attend(const shape *s, ks_dtype type, const operands *o, const int32_t *kv_row,
                  const char *kernel, cudaStream_t stream)
{
    if (kernel)
        return ks_cuda_attention_by(kernel, stream, type, o->y, o->q, o->k, o->v, s->heads);
    return ks_cuda_attention(stream, type, o->y, o->q, o->k, o->v, s->heads, false,
                             s->cross ? kv_row : NULL, NULL, NULL, 0);
}

/* What is timed: sets of operands, and by which kernel. */
typedef struct timed {
    const shape *s;
    ks_dtype type;
    const operands *o; /* [SETS] */
    const int32_t *kv_row;
    const char *kernel;
} timed;

static int call(const void *what, int number, cudaStream_t stream)
{
    const timed *t = what;
    return attend(t->s, t->type, &t->o[number % SETS], t->kv_row, t->kernel, stream);
}

/* Milliseconds a call. */
static double time_of(const shape *s, ks_dtype type, const operands *o, const int32_t *kv_row,
                      const char *kernel)
{
    const timed t = {s, type, o, kv_row, kernel};
    cudaStream_t stream;
    must((int)cudaDeviceSynchronize(), "numbers");
    must((int)cudaStreamCreate(&stream), "stream");
    const double ms = ms_in_graph(stream, call, &t);
    must((int)cudaStreamDestroy(stream), "stream");
    return ms;
}

/* The result of one call as float32; free() it. */
static float *result_of(const shape *s, ks_dtype type, const operands *o, const char *kernel)
{
    const size_t count = (size_t)o->y.n * (size_t)s->tokens * (size_t)o->y.c;
    float *host = malloc(count * sizeof *host), *device;
    must(host ? (int)cudaSuccess : (int)cudaErrorMemoryAllocation, "memory");
    must((int)cudaMalloc((void **)&device, count * sizeof *device), "memory");
    must((int)cudaMemset(o->y.data, 0xff, count * 2), "memory");
    must(attend(s, type, o, NULL, kernel, NULL), "attention");
    must(ks_cuda_to_floats(NULL, type, device, o->y), "floats");
    must((int)cudaMemcpy(host, device, count * sizeof *host, cudaMemcpyDeviceToHost), "copy");
    must((int)cudaFree(device), "cudaFree");
    return host;
}

/* Relative L2 distance of a kernel's result from the right one. */
static double kernel_error(const shape *s, ks_dtype type, const operands *o, const char *kernel,
                           const float *right)
{
    const size_t count = (size_t)o->y.n * (size_t)s->tokens * (size_t)o->y.c;
    double sum = 0, square = 0;
    float *got = result_of(s, type, o, kernel);
    for (size_t i = 0; i < count; i++) {
        const double d = (double)got[i] - (double)right[i];
        sum += d * d;
        square += (double)right[i] * (double)right[i];
    }
    free(got);
    return sqrt(sum / square);
}

static double tflops(const shape *s, int rows, double ms)
{
    const int keys = s->cross ? PROMPT : s->tokens;
    return 4.0 * rows * s->heads * s->width * s->tokens * keys / ms * 1e-9;
}

/* A shape by each kernel; whether all agree. */
static bool bench_kernels(const shape *s, ks_dtype type, int rows)
{
    static const char *const kernels[] = {"mma", "wgmma", "resident"};
    bool good = true;
    operands o[SETS];
    new_sets(o, s, type, rows);
    printf("%s %2d x %4d tokens, %2d x %3d\n", s->model, rows, s->tokens, s->heads, s->width);
    float *right = result_of(s, type, o, NULL);
    for (size_t k = 0; k < sizeof kernels / sizeof *kernels; k++) {
        if (attend(s, type, o, NULL, kernels[k], NULL) == (int)cudaErrorNotSupported)
            continue;
        const double error = kernel_error(s, type, o, kernels[k], right);
        const double ms = time_of(s, type, o, NULL, kernels[k]);
        const bool same = error <= (type == KS_F16 ? 0x1p-10 : 0x1p-7);
        printf("  %-10s %8.4f ms  %5.0f TFLOP/s  off by %.1e%s\n", kernels[k], ms,
               tflops(s, rows, ms), error, same ? "" : "  WRONG");
        good = good && same;
    }
    free(right);
    free_sets(o);
    return good;
}

/* Prints a shape's line; milliseconds a call. */
static double bench_shape(const shape *s, ks_dtype type, int rows, const int32_t *kv_row)
{
    operands o[SETS];
    const int keys = s->cross ? PROMPT : s->tokens;
    const double values = (double)rows * s->heads * s->width;
    new_sets(o, s, type, rows);
    const double ms = time_of(s, type, o, kv_row, NULL);
    printf("%s %2d x %4d tokens, %4d keys, %2d x %3d  %8.4f ms  %5.0f TFLOP/s  %5.2f TB/s\n",
           s->model, rows, s->tokens, keys, s->heads, s->width, ms,
           tflops(s, rows, ms),
           2 * values * (s->tokens + keys) * (type == KS_F32 ? 4 : 2) / ms * 1e-9);
    free_sets(o);
    return ms;
}

static void bench_rows(ks_dtype type, int rows)
{
    double sum[2][2] = {{0}}; /* [SD 1.5][cross] */
    int32_t *host = calloc((size_t)rows, sizeof *host), *kv_row;
    must(host ? (int)cudaSuccess : (int)cudaErrorMemoryAllocation, "memory");
    for (int i = 0; i < rows; i++)
        host[i] = i % CONDITIONINGS;
    must((int)cudaMalloc((void **)&kv_row, (size_t)rows * sizeof *kv_row), "memory");
    must((int)cudaMemcpy(kv_row, host, (size_t)rows * sizeof *host, cudaMemcpyHostToDevice),
         "copy");
    free(host);
    for (int i = 0; i < SHAPES; i++)
        sum[strcmp(shapes[i].model, "sd15") == 0][shapes[i].cross] +=
            shapes[i].count * bench_shape(&shapes[i], type, rows, kv_row) / rows;
    printf("%d rows, ms a row and call: SDXL self %.3f, cross %.3f; SD 1.5 self %.3f, cross %.3f\n",
           rows, sum[0][0], sum[0][1], sum[1][0], sum[1][1]);
    must((int)cudaFree(kv_row), "cudaFree");
}

/* Self-attention by each kernel; whether all agree. */
static bool bench_by(ks_dtype type, int rows)
{
    bool good = true;
    for (int i = 0; i < SHAPES; i++)
        if (!shapes[i].cross)
            good = bench_kernels(&shapes[i], type, rows) && good;
    return good;
}

int main(int argc, char **argv)
{
    const bool kernels = argc > 1 && strcmp(argv[1], "--kernels") == 0;
    const int first = kernels ? 2 : 1;
    const char *precision = argc > first ? argv[first] : "fp16";
    const ks_dtype type = strcmp(precision, "fp32") == 0   ? KS_F32
                          : strcmp(precision, "bf16") == 0 ? KS_BF16
                                                           : KS_F16;
    static const int usual[] = {16, 2};
    const int given = argc - first - 1, count = given > 0 ? given : 2;
    bool good = true;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (kernels && type == KS_F32) {
        fprintf(stderr, "--kernels: those to choose from are for fp16 and bf16, not fp32\n");
        return EXIT_FAILURE;
    }
    for (int i = 0; i < count; i++) {
        const int rows = given > 0 ? atoi(argv[first + 1 + i]) : usual[i];
        if (kernels)
            good = bench_by(type, rows) && good;
        else
            bench_rows(type, rows);
    }
    return good ? EXIT_SUCCESS : EXIT_FAILURE;
}
