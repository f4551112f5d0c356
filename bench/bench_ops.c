/* Times every CPU operation on the shapes of two UNets, one row: the demo model's at 128 x 128 and
 * Stable Diffusion 1.5's at 512 x 512. `count` is how often a row's UNet call runs that operation,
 * so the last column adds up to a row.
 *
 *   bench_ops [demo|sd15] [threads] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/ops.h"

typedef enum kind {
    CONV,
    DOWN,
    UP,
    POINT,
    LINEAR,
    GEGLU,
    ATTENTION,
    GROUP_NORM,
    GROUP_NORM_SILU,
    LAYER_NORM,
    CONCAT
} kind;

static const char *const kind_names[] = {
    "conv 3x3",  "conv 3x3 /2", "conv 3x3 x2",     "conv 1x1",   "linear", "geglu",
    "attention", "group norm",  "group norm+silu", "layer norm", "concat"};

/* h, w: of x. Attention: in keys, out channels in `heads` heads. */
typedef struct shape {
    const char *model;
    int count;
    kind what;
    int h, w, in, out, heads;
} shape;

static const shape shapes[] = {
    {"demo", 1, CONV, 16, 16, 4, 96, 0},
    {"demo", 4, CONV, 16, 16, 96, 96, 0},
    {"demo", 1, CONV, 16, 16, 192, 96, 0},
    {"demo", 1, CONV, 16, 16, 288, 96, 0},
    {"demo", 1, CONV, 16, 16, 96, 4, 0},
    {"demo", 1, CONV, 8, 8, 96, 192, 0},
    {"demo", 7, CONV, 8, 8, 192, 192, 0},
    {"demo", 1, CONV, 8, 8, 288, 192, 0},
    {"demo", 1, CONV, 8, 8, 384, 192, 0},
    {"demo", 1, DOWN, 16, 16, 96, 96, 0},
    {"demo", 1, UP, 8, 8, 192, 192, 0},
    {"demo", 6, POINT, 16, 16, 96, 96, 0},
    {"demo", 1, POINT, 16, 16, 192, 96, 0},
    {"demo", 1, POINT, 16, 16, 288, 96, 0},
    {"demo", 1, POINT, 8, 8, 96, 192, 0},
    {"demo", 8, POINT, 8, 8, 192, 192, 0},
    {"demo", 1, POINT, 8, 8, 288, 192, 0},
    {"demo", 1, POINT, 8, 8, 384, 192, 0},
    {"demo", 1, LINEAR, 1, 1, 96, 384, 0},
    {"demo", 1, LINEAR, 1, 1, 384, 384, 0},
    {"demo", 3, LINEAR, 1, 1, 384, 96, 0},
    {"demo", 5, LINEAR, 1, 1, 384, 192, 0},
    {"demo", 3, LINEAR, 16, 16, 96, 288, 0},
    {"demo", 9, LINEAR, 16, 16, 96, 96, 0},
    {"demo", 3, LINEAR, 16, 16, 384, 96, 0},
    {"demo", 4, LINEAR, 8, 8, 192, 576, 0},
    {"demo", 12, LINEAR, 8, 8, 192, 192, 0},
    {"demo", 4, LINEAR, 8, 8, 768, 192, 0},
    {"demo", 3, GEGLU, 16, 16, 96, 384, 0},
    {"demo", 4, GEGLU, 8, 8, 192, 768, 0},
    {"demo", 3, ATTENTION, 16, 16, 256, 96, 4},
    {"demo", 3, ATTENTION, 16, 16, 77, 96, 4},
    {"demo", 4, ATTENTION, 8, 8, 64, 192, 4},
    {"demo", 4, ATTENTION, 8, 8, 77, 192, 4},
    {"demo", 3, GROUP_NORM, 16, 16, 96, 96, 0},
    {"demo", 5, GROUP_NORM_SILU, 16, 16, 96, 96, 0},
    {"demo", 1, GROUP_NORM_SILU, 16, 16, 192, 192, 0},
    {"demo", 1, GROUP_NORM_SILU, 16, 16, 288, 288, 0},
    {"demo", 4, GROUP_NORM, 8, 8, 192, 192, 0},
    {"demo", 1, GROUP_NORM_SILU, 8, 8, 96, 96, 0},
    {"demo", 7, GROUP_NORM_SILU, 8, 8, 192, 192, 0},
    {"demo", 1, GROUP_NORM_SILU, 8, 8, 288, 288, 0},
    {"demo", 1, GROUP_NORM_SILU, 8, 8, 384, 384, 0},
    {"demo", 9, LAYER_NORM, 16, 16, 96, 96, 0},
    {"demo", 12, LAYER_NORM, 8, 8, 192, 192, 0},
    {"demo", 1, CONCAT, 16, 16, 96, 288, 0},
    {"demo", 1, CONCAT, 16, 16, 96, 192, 0},
    {"demo", 1, CONCAT, 8, 8, 192, 384, 0},
    {"demo", 1, CONCAT, 8, 8, 96, 288, 0},

    {"sd15", 1, CONV, 64, 64, 4, 320, 0},
    {"sd15", 7, CONV, 64, 64, 320, 320, 0},
    {"sd15", 2, CONV, 64, 64, 640, 320, 0},
    {"sd15", 1, CONV, 64, 64, 960, 320, 0},
    {"sd15", 1, CONV, 64, 64, 320, 4, 0},
    {"sd15", 1, CONV, 32, 32, 320, 640, 0},
    {"sd15", 6, CONV, 32, 32, 640, 640, 0},
    {"sd15", 1, CONV, 32, 32, 960, 640, 0},
    {"sd15", 1, CONV, 32, 32, 1280, 640, 0},
    {"sd15", 1, CONV, 32, 32, 1920, 640, 0},
    {"sd15", 1, CONV, 16, 16, 640, 1280, 0},
    {"sd15", 6, CONV, 16, 16, 1280, 1280, 0},
    {"sd15", 1, CONV, 16, 16, 1920, 1280, 0},
    {"sd15", 2, CONV, 16, 16, 2560, 1280, 0},
    {"sd15", 11, CONV, 8, 8, 1280, 1280, 0},
    {"sd15", 3, CONV, 8, 8, 2560, 1280, 0},
    {"sd15", 1, DOWN, 64, 64, 320, 320, 0},
    {"sd15", 1, DOWN, 32, 32, 640, 640, 0},
    {"sd15", 1, DOWN, 16, 16, 1280, 1280, 0},
    {"sd15", 1, UP, 8, 8, 1280, 1280, 0},
    {"sd15", 1, UP, 16, 16, 1280, 1280, 0},
    {"sd15", 1, UP, 32, 32, 640, 640, 0},
    {"sd15", 10, POINT, 64, 64, 320, 320, 0},
    {"sd15", 2, POINT, 64, 64, 640, 320, 0},
    {"sd15", 1, POINT, 64, 64, 960, 320, 0},
    {"sd15", 10, POINT, 32, 32, 640, 640, 0},
    {"sd15", 10, POINT, 16, 16, 1280, 1280, 0},
    {"sd15", 3, POINT, 8, 8, 2560, 1280, 0},
    {"sd15", 22, LINEAR, 1, 1, 1280, 1280, 0},
    {"sd15", 5, LINEAR, 64, 64, 320, 960, 0},
    {"sd15", 15, LINEAR, 64, 64, 320, 320, 0},
    {"sd15", 5, LINEAR, 64, 64, 1280, 320, 0},
    {"sd15", 5, LINEAR, 32, 32, 640, 1920, 0},
    {"sd15", 15, LINEAR, 32, 32, 640, 640, 0},
    {"sd15", 5, LINEAR, 32, 32, 2560, 640, 0},
    {"sd15", 5, LINEAR, 16, 16, 1280, 3840, 0},
    {"sd15", 15, LINEAR, 16, 16, 1280, 1280, 0},
    {"sd15", 5, LINEAR, 16, 16, 5120, 1280, 0},
    {"sd15", 5, GEGLU, 64, 64, 320, 1280, 0},
    {"sd15", 5, GEGLU, 32, 32, 640, 2560, 0},
    {"sd15", 5, GEGLU, 16, 16, 1280, 5120, 0},
    {"sd15", 5, ATTENTION, 64, 64, 4096, 320, 8},
    {"sd15", 5, ATTENTION, 64, 64, 77, 320, 8},
    {"sd15", 5, ATTENTION, 32, 32, 1024, 640, 8},
    {"sd15", 5, ATTENTION, 32, 32, 77, 640, 8},
    {"sd15", 5, ATTENTION, 16, 16, 256, 1280, 8},
    {"sd15", 5, ATTENTION, 16, 16, 77, 1280, 8},
    {"sd15", 13, GROUP_NORM_SILU, 64, 64, 320, 320, 0},
    {"sd15", 10, GROUP_NORM_SILU, 32, 32, 640, 640, 0},
    {"sd15", 10, GROUP_NORM_SILU, 16, 16, 1280, 1280, 0},
    {"sd15", 14, GROUP_NORM_SILU, 8, 8, 1280, 1280, 0},
    {"sd15", 15, LAYER_NORM, 64, 64, 320, 320, 0},
    {"sd15", 15, LAYER_NORM, 32, 32, 640, 640, 0},
    {"sd15", 15, LAYER_NORM, 16, 16, 1280, 1280, 0},
    {"sd15", 2, CONCAT, 64, 64, 320, 640, 0},
};

enum { SHAPES = sizeof shapes / sizeof *shapes };

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void need(bool good, const ks_error *err)
{
    if (good)
        return;
    fprintf(stderr, "bench_ops: %s\n", err->text);
    exit(EXIT_FAILURE);
}

/* An operation with its operands. */
typedef struct bench {
    ks_ops *ops;
    const shape *s;
    ks_weight *weight;
    ks_act x, y, k, v;
} bench;

static ks_act new_act(ks_ops *ops, int h, int w, int c)
{
    ks_act a = ops->act(ops, 1, h, w, c);
    for (int64_t i = 0; a.data && i < (int64_t)h * w * c; i++)
        ((float *)a.data)[i] = (float)(i * 2654435761u % 2003) * 1e-3f - 1.0f;
    return a;
}

static ks_weight *new_weight(ks_ops *ops, const shape *s)
{
    const bool norm = s->what >= GROUP_NORM && s->what <= LAYER_NORM;
    const int kernel = s->what <= UP ? 3 : 1;
    const int64_t out = s->what == GEGLU ? 2 * s->out : s->out, in = norm ? 1 : s->in;
    ks_error err = KS_ERROR_NONE;
    float *values = calloc((size_t)(out * in * kernel * kernel), sizeof *values);
    if (!values)
        ks_error_set(&err, "no memory");
    need(values, &err);
    for (int64_t i = 0; i < out * in * kernel * kernel; i++)
        values[i] = (float)(i * 40503u % 1009) * 1e-4f - 0.05f;
    ks_view w = {values, KS_F32, 4, {out, in, kernel, kernel}}, v = {values, KS_F32, 1, {out}};
    const ks_weight_use use = s->what == GEGLU    ? KS_USE_GEGLU
                              : s->what == LINEAR ? KS_USE_LINEAR
                                                  : KS_USE_CONV;
    ks_weight *weight =
        norm ? ops->norm_weight(ops, &v, &v, &err) : ops->weight(ops, use, 1, &w, &v, &err);
    free(values);
    need(weight, &err);
    return weight;
}

static bench new_bench(ks_ops *ops, const shape *s)
{
    bench b = {.ops = ops, .s = s};
    const int up = s->what == UP ? 2 : 1, down = s->what == DOWN ? 2 : 1;
    if (s->what != ATTENTION && s->what != CONCAT)
        b.weight = new_weight(ops, s);
    b.x = new_act(ops, s->h, s->w, s->what == ATTENTION ? s->out : s->in);
    b.y = new_act(ops, s->h * up / down, s->w * up / down, s->out);
    if (s->what == ATTENTION || s->what == CONCAT) {
        b.k = new_act(ops, s->what == CONCAT ? s->h : s->in, s->what == CONCAT ? s->w : 1,
                      s->what == CONCAT ? s->out - s->in : s->out);
        b.v = new_act(ops, b.k.h, b.k.w, b.k.c);
    }
    return b;
}

static void run(const bench *b)
{
    ks_ops *ops = b->ops;
    const ks_act absent = {0};
    const ks_conv how = {.stride = b->s->what == DOWN ? 2 : 1,
                         .pad = b->s->what == POINT ? 0 : 1,
                         .upsample = b->s->what == UP};
    switch (b->s->what) {
    case CONV:
    case DOWN:
    case UP:
    case POINT:
        ops->conv(ops, b->y, b->x, b->weight, &how);
        break;
    case LINEAR:
        ops->linear(ops, b->y, b->x, b->weight, KS_ACT_NONE, absent);
        break;
    case GEGLU:
        ops->geglu(ops, b->y, b->x, b->weight);
        break;
    case GROUP_NORM:
        ops->group_norm(ops, b->y, b->x, b->weight, 32, 1e-5f, false);
        break;
    case GROUP_NORM_SILU:
        ops->group_norm(ops, b->y, b->x, b->weight, 32, 1e-5f, true);
        break;
    case LAYER_NORM:
        ops->layer_norm(ops, b->y, b->x, b->weight, 1e-5f);
        break;
    case CONCAT:
        ops->concat(ops, b->y, b->x, b->k);
        break;
    case ATTENTION:
        ops->attention(ops, b->y, b->x, b->k, b->v, &(ks_attention){.heads = b->s->heads});
        break;
    }
}

/* Multiply-adds, twice. */
static double flops(const shape *s)
{
    const double pixels = (double)s->h * s->w *
                          (s->what == UP     ? 4.0
                           : s->what == DOWN ? 0.25
                                             : 1.0);
    const double product = 2.0 * pixels * s->in * s->out;
    return s->what <= UP                              ? 9.0 * product
           : s->what == GEGLU || s->what == ATTENTION ? 2.0 * product
                                                      : product;
}

static double bytes(const shape *s)
{
    return 4.0 * s->h * s->w * ((s->what == CONCAT ? s->out : s->in) + (double)s->out);
}

/* The best of some runs within about a quarter of a second. */
static double best_time(const bench *b)
{
    double best = 1e9, start = seconds();
    for (int runs = 0; runs < 3 || (runs < 200 && seconds() - start < 0.2); runs++) {
        double before = seconds();
        run(b);
        double time = seconds() - before;
        best = time < best ? time : best;
    }
    return best;
}

static double bench_shape(ks_ops *ops, const shape *s)
{
    ks_error err = KS_ERROR_NONE;
    size_t mark = ops->mark(ops);
    bench b = new_bench(ops, s);
    need(ops->sync(ops, &err) == 0, &err);
    double time = best_time(&b);
    need(ops->sync(ops, &err) == 0, &err);
    bool memory = s->what >= GROUP_NORM;
    printf("%-5s %-16s %3dx%-3d %5d -> %-5d %9.4f ms %8.1f %-7s x%-3d %9.3f ms\n", s->model,
           kind_names[s->what], s->h, s->w, s->in, s->out, 1e3 * time,
           1e-9 * (memory ? bytes(s) : flops(s)) / time, memory ? "GB/s" : "GFLOP/s", s->count,
           1e3 * time * s->count);
    ops->weight_free(ops, b.weight);
    ops->unwind(ops, mark);
    return time * s->count;
}

int main(int argc, char **argv)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = ks_ops_cpu(argc > 2 ? atoi(argv[2]) : 1, &err);
    need(ops, &err);
    printf("%s, %d thread%s\n", ops->device, ops->threads, ops->threads == 1 ? "" : "s");
    double total = 0.0;
    for (int i = 0; i < SHAPES; i++) {
        if (argc > 1 && strcmp(argv[1], shapes[i].model) != 0)
            continue;
        total += bench_shape(ops, &shapes[i]);
        if (i + 1 < SHAPES && strcmp(shapes[i].model, shapes[i + 1].model) == 0)
            continue;
        printf("%-5s a row: %.2f ms\n", shapes[i].model, 1e3 * total);
        total = 0.0;
    }
    ops->free(ops);
    return EXIT_SUCCESS;
}
