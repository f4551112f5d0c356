/* The group norms of SDXL at 1024 x 1024, SD 1.5 at 512 x 512 and the VAE decoder on a GPU, on
 * random numbers: every way that can compute each, and what all of a UNet call's come to. Then the
 * same for the moments that linear layers with a layer norm in them ask for.
 *   bench_norm_gpu [PRECISION [ROWS...]]     fp16, 16 2
 *
 * A time is the median of replays of a graph of calls, each on other memory than the
 * last, so that of large tensors little is in the cache but what a call itself put there. GB/s
 * counts x, and y where there is one, once. The share is that of 3350 GB/s, an H100's by the
 * vendor's sheet. */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/norm.h"
#include "kernels/parameters.h"
#include "gpu_bench.h"

enum { SETS = 4, GROUPS = 32, CHOSEN = KS_CUDA_NORM_WAYS };

typedef struct shape {
    const char *model;
    int side, channels;
    int count; /* in a UNet call */
} shape;

static const shape shapes[] = {
    {"sdxl", 128, 320, 8},  {"sdxl", 128, 640, 2},  {"sdxl", 128, 960, 1}, {"sdxl", 64, 320, 1},
    {"sdxl", 64, 640, 11},  {"sdxl", 64, 960, 1},   {"sdxl", 64, 1280, 1}, {"sdxl", 64, 1920, 1},
    {"sdxl", 32, 640, 1},   {"sdxl", 32, 1280, 16}, {"sdxl", 32, 1920, 1}, {"sdxl", 32, 2560, 2},
    {"sd15", 64, 320, 13},  {"sd15", 64, 640, 2},   {"sd15", 64, 960, 1},  {"sd15", 32, 320, 1},
    {"sd15", 32, 640, 11},  {"sd15", 32, 960, 1},   {"sd15", 32, 1280, 1}, {"sd15", 32, 1920, 1},
    {"sd15", 16, 640, 1},   {"sd15", 16, 1280, 11}, {"sd15", 16, 1920, 1}, {"sd15", 16, 2560, 2},
    {"sd15", 8, 1280, 12},  {"sd15", 8, 2560, 3},   {"vae", 64, 512, 0},   {"vae", 128, 512, 0},
    {"vae", 256, 512, 0},   {"vae", 256, 256, 0},   {"odd", 192, 320, 0},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Tokens of moments: three for each block of a transformer. */
static const shape moments[] = {
    {"sdxl", 64, 640, 30},  {"sdxl", 32, 1280, 180}, {"sd15", 64, 320, 15},
    {"sd15", 32, 640, 15},  {"sd15", 16, 1280, 15},  {"sd15", 8, 1280, 3},
};
enum { MOMENTS = sizeof moments / sizeof *moments, LAYER = CHOSEN + 1 };

/* A shape's arrays. */
typedef struct operands {
    ks_dtype type;
    ks_act y[SETS], x[SETS];
    float *gamma, *beta;
    void *workspace;
    size_t bytes; /* of the workspace */
} operands;

static operands new_operands(const shape *s, ks_dtype type, int rows)
{
    operands o = {.type = type};
    for (int i = 0; i < SETS; i++) {
        o.x[i] = random_tensor(type, rows, s->side, s->side, s->channels, 10 * (uint32_t)i);
        o.y[i] = random_tensor(type, rows, s->side, s->side, s->channels, 10 * (uint32_t)i + 1);
    }
    o.gamma = random_tensor(KS_F32, 1, 1, 1, s->channels, 2).data;
    o.beta = random_tensor(KS_F32, 1, 1, 1, s->channels, 3).data;
    o.bytes = ks_cuda_group_norm_workspace(rows, GROUPS, (int64_t)s->side * s->side, s->channels);
    must((int)cudaMalloc(&o.workspace, o.bytes), "memory");
    return o;
}

static void free_operands(operands *o)
{
    for (int i = 0; i < SETS; i++) {
        must((int)cudaFree(o->x[i].data), "cudaFree");
        must((int)cudaFree(o->y[i].data), "cudaFree");
    }
    must((int)cudaFree(o->gamma), "cudaFree");
    must((int)cudaFree(o->beta), "cudaFree");
    must((int)cudaFree(o->workspace), "cudaFree");
}

/* One call by a way, or by the one that is taken, or a layer's moments, to y. */
static int run(const operands *o, int set, int way, cudaStream_t stream)
{
    const ks_act y = o->y[set], x = o->x[set];
    if (way == LAYER)
        return ks_cuda_layer_moments(stream, o->type, y.data, x, 1e-5f);
    if (way == CHOSEN)
        return ks_cuda_group_norm(stream, o->type, y, x, o->gamma, o->beta, GROUPS, 1e-5f, true,
                                  o->workspace, o->bytes);
    return ks_cuda_group_norm_by((ks_cuda_norm_way)way, stream, o->type, y, x, o->gamma, o->beta,
                                 GROUPS, 1e-5f, true, o->workspace, o->bytes);
}

/* What is timed: operands, and by which way. */
typedef struct timed {
    const operands *o;
    int way;
} timed;

static int call(const void *what, int number, cudaStream_t stream)
{
    const timed *t = what;
    return run(t->o, number % SETS, t->way, stream);
}

/* Milliseconds a call; negative where it cannot be done so. */
static double time_of(const operands *o, int way, cudaStream_t stream)
{
    const timed t = {o, way};
    const int first = run(o, 0, way, stream);
    if (first == (int)cudaErrorNotSupported)
        return -1;
    must(first, "a norm");
    return ms_in_graph(stream, call, &t);
}

/* Prints a shape's line. sum: what each way adds to a call, and at [CHOSEN] the one that is taken;
 * a way that cannot do it adds the next one that can. */
static void bench_shape(const shape *s, ks_dtype type, int rows, cudaStream_t stream, double *sum)
{
    static const char *const names[] = {"clusters", "blocks", "passes", "taken"};
    const double bytes = 2.0 * rows * s->side * s->side * s->channels * (type == KS_F32 ? 4 : 2);
    double ms[CHOSEN + 1];
    operands o = new_operands(s, type, rows);
    must((int)cudaDeviceSynchronize(), "numbers");
    printf("%s %2d x %3d^2 x %4d  cluster of %2d", s->model, rows, s->side, s->channels,
           ks_cuda_group_norm_cluster(type, o.x[0], GROUPS));
    for (int way = 0; way <= CHOSEN; way++) {
        ms[way] = time_of(&o, way, stream);
        if (ms[way] > 0)
            printf("  %s %.4f ms %4.0f GB/s %2.0f %%", names[way], ms[way], bytes / ms[way] * 1e-6,
                   bytes / ms[way] / 3350e6 * 100);
        else
            printf("  %s %25s", names[way], "-");
    }
    for (int way = CHOSEN; way >= 0; way--) {
        if (ms[way] < 0 && way < CHOSEN)
            ms[way] = ms[way + 1];
        sum[way] += s->count * ms[way] / rows;
    }
    printf("\n");
    free_operands(&o);
}

static void bench_moments(ks_dtype type, int rows, cudaStream_t stream)
{
    double sum[2] = {0}; /* [SD 1.5] */
    for (int i = 0; i < MOMENTS; i++) {
        const shape *s = &moments[i];
        const double values = (double)rows * s->side * s->side * s->channels;
        const double bytes = values * (type == KS_F32 ? 4 : 2);
        operands o = new_operands(s, type, rows);
        must((int)cudaDeviceSynchronize(), "numbers");
        const double ms = time_of(&o, LAYER, stream);
        sum[strcmp(s->model, "sd15") == 0] += s->count * ms / rows;
        printf("%s %2d x %4d tokens x %4d  moments %.4f ms %4.0f GB/s %2.0f %%\n", s->model, rows,
               s->side * s->side, s->channels, ms, bytes / ms * 1e-6, bytes / ms / 3350e6 * 100);
        free_operands(&o);
    }
    printf("moments, %d rows, ms a row and call: SDXL %.4f, SD 1.5 %.4f\n", rows, sum[0], sum[1]);
}

static void bench_rows(ks_dtype type, int rows)
{
    double sum[2][CHOSEN + 1] = {{0}}; /* [SD 1.5] */
    cudaStream_t stream;
    must((int)cudaStreamCreate(&stream), "stream");
    for (int i = 0; i < SHAPES; i++) {
        const bool vae = strcmp(shapes[i].model, "vae") == 0;
        bench_shape(&shapes[i], type, vae ? 1 : rows, stream,
                    sum[strcmp(shapes[i].model, "sd15") == 0]);
    }
    for (int m = 0; m < 2; m++)
        printf("%s, %d rows, ms a row and call: clusters %.4f, without them %.4f, two passes alone "
               "%.4f, taken %.4f\n",
               m ? "SD 1.5" : "SDXL", rows, sum[m][KS_CUDA_NORM_CLUSTERS],
               sum[m][KS_CUDA_NORM_BLOCKS], sum[m][KS_CUDA_NORM_PASSES], sum[m][CHOSEN]);
    bench_moments(type, rows, stream);
    must((int)cudaStreamDestroy(stream), "stream");
}

int main(int argc, char **argv)
{
    const char *precision = argc > 1 ? argv[1] : "fp16";
    const ks_dtype type = strcmp(precision, "fp32") == 0   ? KS_F32
                          : strcmp(precision, "bf16") == 0 ? KS_BF16
                                                           : KS_F16;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 2; i < argc; i++)
        bench_rows(type, atoi(argv[i]));
    if (argc <= 2) {
        bench_rows(type, 16);
        bench_rows(type, 2);
    }
    return EXIT_SUCCESS;
}
