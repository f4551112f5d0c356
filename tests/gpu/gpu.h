/* What the GPU tests share: the operations and shapes that are tried, and their arrays on a
 * backend. Shapes are those of SDXL at 1024 x 1024, SD 1.5 at 512 x 512, CLIP and the VAE, and odd
 * ones. */
#ifndef TESTS_GPU_GPU_H
#define TESTS_GPU_GPU_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/cuda/cuda.h"
#include "backend/ops.h"
#include "kernels/gemm.h"

enum { SKIPPED = 77 };

static const char *const precisions[] = {"fp32", "fp16", "bf16"};
enum { PRECISIONS = sizeof precisions / sizeof *precisions };

typedef enum what {
    CONV,
    LINEAR,
    GEGLU,
    GROUP_NORM,
    LAYER_NORM,
    ATTENTION,
    CONCAT,
    ADD,
    ACTIVATE
} what;

static const char *const what_names[] = {"conv",      "linear", "geglu", "group norm", "layer norm",
                                         "attention", "concat", "add",   "activate"};

enum {
    STRIDE2 = 1,
    UPSAMPLE = 2,
    ROW_BIAS = 4,
    RESIDUAL = 8,
    IN_PLACE = 16, /* the residual is y itself; of a norm, x is */
    NO_BIAS = 32,
    WIDER = 64,  /* every pixel is a slice of a wider one, on 16 bytes */
    ODDER = 128, /* the same, at odd places */
    CAUSAL = 256,
    MASKED = 512, /* kv_row and kv_len */
    FUSED_QKV = 1024, /* q, k and v are thirds of one activation */
    ODD_SIZE = 2048,  /* an upsampled size less one */
    NORMED = 4096     /* a layer norm comes first, in the weight where it takes it */
};

typedef struct op_case {
    const char *model;
    what what;
    int rows; /* in comparisons with the CPU */
    int h, w, in, out;
    int extra; /* conv: side of the kernel; group norm: groups; attention: tokens of k and v */
    int heads;
    unsigned flags;
    ks_activation activation;
} op_case;

/*   model     what       rows  h   w   in    out  extra heads flags */
static const op_case op_cases[] = {
    {"sdxl", CONV, 2, 128, 128, 4, 320, 3, 0, 0, KS_ACT_NONE},
    {"sdxl", CONV, 2, 128, 128, 320, 320, 3, 0, ROW_BIAS, KS_ACT_NONE},
    {"sdxl", CONV, 2, 128, 128, 320, 320, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"sdxl", CONV, 2, 128, 128, 960, 320, 3, 0, ROW_BIAS, KS_ACT_NONE},
    {"sdxl", CONV, 2, 128, 128, 320, 320, 3, 0, STRIDE2, KS_ACT_NONE},
    {"sdxl", CONV, 2, 64, 64, 640, 640, 3, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"sdxl", CONV, 2, 64, 64, 1920, 640, 3, 0, ROW_BIAS, KS_ACT_NONE},
    {"sdxl", CONV, 2, 64, 64, 640, 640, 3, 0, STRIDE2, KS_ACT_NONE},
    {"sdxl", CONV, 2, 32, 32, 1280, 1280, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"sdxl", CONV, 2, 32, 32, 2560, 1280, 3, 0, ROW_BIAS, KS_ACT_NONE},
    {"sdxl", CONV, 2, 32, 32, 1280, 1280, 3, 0, UPSAMPLE, KS_ACT_NONE},
    {"sdxl", CONV, 2, 128, 128, 320, 4, 3, 0, 0, KS_ACT_NONE},
    {"sd15", CONV, 2, 64, 64, 320, 320, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"sd15", CONV, 2, 32, 32, 640, 640, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"sd15", CONV, 2, 16, 16, 1280, 1280, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"sd15", CONV, 2, 16, 16, 2560, 1280, 3, 0, ROW_BIAS, KS_ACT_NONE},
    {"sd15", CONV, 2, 16, 16, 1280, 1280, 3, 0, STRIDE2, KS_ACT_NONE},
    {"sd15", CONV, 2, 8, 8, 1280, 1280, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"sd15", CONV, 2, 8, 8, 1280, 1280, 3, 0, UPSAMPLE, KS_ACT_NONE},
    {"vae", CONV, 1, 256, 256, 128, 128, 3, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"vae", CONV, 1, 256, 256, 128, 3, 3, 0, 0, KS_ACT_NONE},
    {"odd", CONV, 3, 7, 5, 33, 20, 3, 0, ROW_BIAS | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 3, 9, 7, 64, 48, 3, 0, STRIDE2, KS_ACT_NONE},
    {"odd", CONV, 3, 9, 6, 32, 32, 3, 0, UPSAMPLE | ODD_SIZE, KS_ACT_NONE},
    {"odd", CONV, 3, 1, 1, 64, 64, 3, 0, 0, KS_ACT_NONE},
    {"odd", CONV, 3, 12, 12, 64, 64, 3, 0, WIDER | ROW_BIAS | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 3, 12, 12, 64, 64, 3, 0, ODDER | RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"odd", CONV, 3, 12, 11, 40, 24, 1, 0, RESIDUAL | NO_BIAS, KS_ACT_NONE},
    /* channels that fill no whole stage or tile, lines and columns of pixels, 1 to 17 rows */
    {"odd", CONV, 3, 7, 5, 72, 96, 3, 0, ROW_BIAS | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 17, 9, 11, 64, 96, 3, 0, ROW_BIAS | RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"odd", CONV, 1, 1, 1, 128, 64, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 5, 1, 37, 136, 32, 3, 0, STRIDE2 | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 2, 41, 1, 64, 224, 3, 0, NO_BIAS | ROW_BIAS, KS_ACT_NONE},
    {"odd", CONV, 7, 13, 22, 200, 160, 3, 0, STRIDE2 | ROW_BIAS, KS_ACT_NONE},
    {"odd", CONV, 3, 9, 6, 96, 64, 3, 0, UPSAMPLE | ODD_SIZE | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 3, 5, 7, 96, 64, 3, 0, UPSAMPLE | WIDER | ROW_BIAS | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 11, 1, 13, 72, 288, 3, 0, UPSAMPLE | RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"sdxl", CONV, 1, 64, 64, 640, 640, 3, 0, UPSAMPLE, KS_ACT_NONE},
    {"vae", CONV, 1, 64, 64, 512, 512, 3, 0, UPSAMPLE, KS_ACT_NONE},
    {"odd", CONV, 3, 9, 7, 72, 64, 3, 0, STRIDE2 | WIDER | ROW_BIAS | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 3, 9, 7, 72, 64, 3, 0, ODDER | ROW_BIAS | RESIDUAL, KS_ACT_NONE},
    /* so few pixels that the terms are cut into parts */
    {"sd15", CONV, 2, 8, 8, 2560, 1280, 3, 0, ROW_BIAS, KS_ACT_NONE},
    {"odd", CONV, 1, 5, 7, 1280, 96, 3, 0, ROW_BIAS | RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"odd", CONV, 2, 7, 5, 640, 320, 3, 0, STRIDE2 | WIDER | RESIDUAL, KS_ACT_NONE},
    {"odd", CONV, 1, 5, 7, 1280, 96, 3, 0, UPSAMPLE | ROW_BIAS | RESIDUAL, KS_ACT_NONE},
    {"vae", CONV, 1, 64, 64, 512, 512, 3, 0, RESIDUAL, KS_ACT_NONE},
    {"vae", CONV, 1, 256, 256, 256, 128, 3, 0, 0, KS_ACT_NONE},
    {"sd15", LINEAR, 2, 8, 8, 5120, 1280, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"odd", LINEAR, 1, 5, 7, 5120, 96, 0, 0, NORMED | RESIDUAL, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 64, 64, 640, 1920, 0, 0, NO_BIAS, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 64, 64, 640, 640, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 64, 64, 2560, 640, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 32, 32, 1280, 3840, 0, 0, NO_BIAS, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 32, 32, 1280, 1280, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 32, 32, 5120, 1280, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 32, 32, 1280, 1280, 0, 0, RESIDUAL, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 128, 128, 960, 320, 0, 0, 0, KS_ACT_NONE},
    {"sdxl", LINEAR, 1, 77, 1, 2048, 2560, 0, 0, NO_BIAS, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 1, 1, 320, 1280, 0, 0, 0, KS_ACT_SILU},
    {"sdxl", LINEAR, 2, 1, 1, 1280, 1280, 0, 0, RESIDUAL, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 1, 1, 2816, 1280, 0, 0, 0, KS_ACT_SILU},
    {"sd15", LINEAR, 2, 64, 64, 320, 960, 0, 0, NO_BIAS, KS_ACT_NONE},
    {"sd15", LINEAR, 2, 64, 64, 1280, 320, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"sd15", LINEAR, 2, 8, 8, 5120, 1280, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"clip", LINEAR, 2, 77, 1, 768, 3072, 0, 0, 0, KS_ACT_QUICK_GELU},
    {"vae", LINEAR, 1, 128, 128, 4, 4, 0, 0, 0, KS_ACT_NONE},
    {"odd", LINEAR, 3, 77, 1, 30, 41, 0, 0, RESIDUAL, KS_ACT_GELU},
    {"odd", LINEAR, 3, 13, 1, 64, 96, 0, 0, WIDER | RESIDUAL, KS_ACT_NONE},
    {"odd", LINEAR, 3, 13, 1, 64, 96, 0, 0, ODDER | RESIDUAL | IN_PLACE, KS_ACT_SILU},
    {"odd", LINEAR, 3, 37, 11, 328, 352, 0, 0, RESIDUAL, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 32, 32, 1280, 3840, 0, 0, NORMED | NO_BIAS, KS_ACT_NONE},
    {"sdxl", LINEAR, 2, 64, 64, 640, 640, 0, 0, NORMED | NO_BIAS, KS_ACT_NONE},
    {"odd", LINEAR, 3, 13, 1, 72, 160, 0, 0, NORMED | ODDER | RESIDUAL, KS_ACT_NONE},
    {"odd", LINEAR, 3, 13, 1, 72, 50, 0, 0, NORMED, KS_ACT_NONE},
    {"odd", LINEAR, 1, 1, 1, 8, 32, 0, 0, RESIDUAL | IN_PLACE, KS_ACT_NONE},
    {"odd", LINEAR, 3, 13, 1, 72, 160, 0, 0, WIDER | NO_BIAS, KS_ACT_NONE},
    {"sdxl", GEGLU, 2, 64, 64, 640, 2560, 0, 0, 0, KS_ACT_NONE},
    {"sdxl", GEGLU, 2, 32, 32, 1280, 5120, 0, 0, 0, KS_ACT_NONE},
    {"sd15", GEGLU, 2, 64, 64, 320, 1280, 0, 0, 0, KS_ACT_NONE},
    {"odd", GEGLU, 3, 5, 3, 24, 36, 0, 0, ODDER, KS_ACT_NONE},
    {"odd", GEGLU, 3, 13, 21, 200, 112, 0, 0, 0, KS_ACT_NONE},
    {"sdxl", GEGLU, 2, 32, 32, 1280, 5120, 0, 0, NORMED, KS_ACT_NONE},
    {"odd", GEGLU, 3, 13, 21, 200, 112, 0, 0, NORMED, KS_ACT_NONE},
    {"odd", GEGLU, 3, 13, 1, 72, 48, 0, 0, ODDER, KS_ACT_NONE},
    {"odd", GEGLU, 3, 9, 1, 64, 16, 0, 0, WIDER, KS_ACT_NONE},
    {"sdxl", GROUP_NORM, 2, 128, 128, 320, 320, 32, 0, 0, KS_ACT_SILU},
    {"sdxl", GROUP_NORM, 2, 128, 128, 960, 960, 32, 0, 0, KS_ACT_SILU},
    {"sdxl", GROUP_NORM, 2, 64, 64, 640, 640, 32, 0, IN_PLACE, KS_ACT_NONE},
    {"sdxl", GROUP_NORM, 2, 32, 32, 2560, 2560, 32, 0, 0, KS_ACT_SILU},
    {"sdxl", GROUP_NORM, 2, 64, 64, 1920, 1920, 32, 0, 0, KS_ACT_SILU},
    {"sdxl", GROUP_NORM, 2, 32, 32, 1280, 1280, 32, 0, IN_PLACE, KS_ACT_SILU},
    {"sd15", GROUP_NORM, 2, 64, 64, 320, 320, 32, 0, WIDER, KS_ACT_SILU},
    {"sd15", GROUP_NORM, 2, 16, 16, 1280, 1280, 32, 0, 0, KS_ACT_NONE},
    {"sd15", GROUP_NORM, 2, 8, 8, 1280, 1280, 32, 0, IN_PLACE, KS_ACT_SILU},
    {"vae", GROUP_NORM, 1, 256, 256, 128, 128, 32, 0, 0, KS_ACT_SILU},
    {"odd", GROUP_NORM, 3, 40, 37, 96, 96, 32, 0, 0, KS_ACT_SILU},
    {"odd", GROUP_NORM, 3, 61, 63, 640, 640, 32, 0, WIDER, KS_ACT_SILU},
    {"odd", GROUP_NORM, 3, 17, 15, 320, 320, 32, 0, IN_PLACE | WIDER, KS_ACT_NONE},
    {"odd", GROUP_NORM, 3, 5, 3, 33, 33, 3, 0, ODDER, KS_ACT_NONE},
    {"odd", GROUP_NORM, 3, 1, 1, 64, 64, 32, 0, 0, KS_ACT_NONE},
    {"sdxl", LAYER_NORM, 2, 64, 64, 640, 640, 0, 0, 0, KS_ACT_NONE},
    {"sdxl", LAYER_NORM, 2, 32, 32, 1280, 1280, 0, 0, 0, KS_ACT_NONE},
    {"clip", LAYER_NORM, 2, 77, 1, 768, 768, 0, 0, IN_PLACE, KS_ACT_NONE},
    {"odd", LAYER_NORM, 3, 7, 1, 100, 100, 0, 0, ODDER, KS_ACT_NONE},
    {"sdxl", ATTENTION, 1, 64, 64, 640, 640, 4096, 10, FUSED_QKV, KS_ACT_NONE},
    {"sdxl", ATTENTION, 2, 32, 32, 1280, 1280, 1024, 20, FUSED_QKV, KS_ACT_NONE},
    {"sdxl", ATTENTION, 2, 64, 64, 640, 640, 77, 10, MASKED, KS_ACT_NONE},
    {"sdxl", ATTENTION, 2, 32, 32, 1280, 1280, 77, 20, MASKED, KS_ACT_NONE},
    {"sd15", ATTENTION, 2, 64, 64, 320, 320, 4096, 8, FUSED_QKV, KS_ACT_NONE},
    {"sd15", ATTENTION, 2, 32, 32, 640, 640, 1024, 8, FUSED_QKV, KS_ACT_NONE},
    {"sd15", ATTENTION, 2, 8, 8, 1280, 1280, 64, 8, FUSED_QKV, KS_ACT_NONE},
    {"sd15", ATTENTION, 2, 16, 16, 1280, 1280, 154, 8, MASKED, KS_ACT_NONE},
    {"clip", ATTENTION, 2, 77, 1, 768, 768, 77, 12, CAUSAL | FUSED_QKV, KS_ACT_NONE},
    {"vae", ATTENTION, 1, 32, 32, 512, 512, 1024, 1, FUSED_QKV, KS_ACT_NONE},
    {"odd", ATTENTION, 3, 13, 1, 28, 28, 29, 4, MASKED, KS_ACT_NONE},
    {"odd", ATTENTION, 3, 5, 3, 32, 32, 15, 4, CAUSAL | ODDER, KS_ACT_NONE},
    {"sdxl", CONCAT, 2, 128, 128, 640, 960, 0, 0, 0, KS_ACT_NONE},
    {"odd", CONCAT, 3, 5, 3, 7, 18, 0, 0, ODDER, KS_ACT_NONE},
    {"sdxl", ADD, 2, 64, 64, 640, 640, 0, 0, 0, KS_ACT_NONE},
    {"odd", ADD, 3, 5, 3, 19, 19, 0, 0, ODDER, KS_ACT_NONE},
    {"sdxl", ACTIVATE, 2, 1, 1, 1280, 1280, 0, 0, IN_PLACE, KS_ACT_SILU},
    {"odd", ACTIVATE, 3, 5, 3, 19, 19, 0, 0, 0, KS_ACT_GELU},
    {"odd", ACTIVATE, 3, 5, 3, 24, 24, 0, 0, WIDER, KS_ACT_QUICK_GELU},
};
enum { OP_CASES = sizeof op_cases / sizeof *op_cases };

static inline bool has(const op_case *t, unsigned flag)
{
    return (t->flags & flag) != 0;
}

static inline int out_side(const op_case *t, int side)
{
    if (has(t, STRIDE2))
        return (side + 2 * (t->extra / 2) - t->extra) / 2 + 1;
    if (has(t, UPSAMPLE))
        return 2 * side - (has(t, ODD_SIZE) ? 1 : 0);
    return side;
}

/* "2x32x32 1280 -> 1280 3x3 residual". */
static inline const char *shape_text(const op_case *t, int rows)
{
    static char text[160];
    static const char *const flags[] = {"stride 2", "up",     "row bias", "residual", "in place",
                                        "no bias",  "wider",  "odder",    "causal",   "masked",
                                        "qkv",      "less 1", "normed"};
    int n = snprintf(text, sizeof text, "%dx%dx%d %d>%d", rows, t->h, t->w, t->in, t->out);
    if (t->extra)
        n += snprintf(text + n, sizeof text - (size_t)n, " %d", t->extra);
    if (t->heads)
        n += snprintf(text + n, sizeof text - (size_t)n, " x%d", t->heads);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (has(t, 1u << i))
            n += snprintf(text + n, sizeof text - (size_t)n, " %s", flags[i]);
    return text;
}

/* --- numbers: multiples of 1/64 in [-1, 1), which every type holds exactly --- */

enum { NUMBERS = 48 << 20 };
static float *numbers;

static inline void make_numbers(void)
{
    uint32_t state = 12345;
    numbers = malloc((size_t)NUMBERS * sizeof *numbers);
    assert_non_null(numbers);
    for (int i = 0; i < NUMBERS; i++) {
        state = state * 1664525u + 1013904223u;
        numbers[i] = (float)((int)(state >> 25) - 64) / 64.0f;
    }
}

/* n of them, others for another seed. */
static inline const float *some_numbers(int64_t n, int seed)
{
    int64_t at = (int64_t)seed * 1000003;
    assert_true(at + n <= NUMBERS);
    return numbers + at;
}

/* --- the arrays of a case --- */

typedef struct operands {
    ks_ops *ops;
    const op_case *t;
    int n;
    ks_act y, x, a, b, row_bias, residual; /* a, b: k and v, or the second summand in a */
    ks_act normed;                         /* of x, where w does not normalise itself */
    int32_t *kv_row, *kv_len;
    ks_weight *w, *norm;
    void *memory[16];
    int count;
} operands;

static inline void *device_memory(operands *o, size_t bytes)
{
    ks_error err = KS_ERROR_NONE;
    void *memory = o->ops->alloc(o->ops, bytes, &err);
    if (!memory)
        fail_msg("%s", err.text);
    assert_true(o->count < 16);
    return o->memory[o->count++] = memory;
}

static inline size_t element_of(const ks_ops *ops)
{
    return strcmp(ops->precision, "fp32") == 0 ? 4 : 2;
}

static inline int64_t pixels_in(ks_act a)
{
    return (int64_t)a.n * a.h * a.w;
}

static inline ks_act new_act(operands *o, int n, int h, int w, int c)
{
    int gap = has(o->t, WIDER) ? 8 : has(o->t, ODDER) ? 3 : 0;
    ks_act a = {.n = n, .h = h, .w = w, .c = c, .stride = c + gap};
    a.data = device_memory(o, (size_t)pixels_in(a) * (size_t)a.stride * element_of(o->ops));
    return a;
}

static inline ks_act channels_of(const operands *o, ks_act a, int first, int c)
{
    a.data = (char *)a.data + (size_t)first * element_of(o->ops);
    a.c = c;
    return a;
}

static inline ks_view view_of(const float *data, int rank, int64_t a, int64_t b, int64_t k)
{
    return (ks_view){.data = data, .dtype = KS_F32, .rank = rank, .shape = {a, b, k, k}};
}

/* A weight whose products with the numbers stay near 1. */
static inline ks_weight *new_weight(ks_ops *ops, ks_weight_use use, int out, int in, int side,
                                    bool bias)
{
    const int k = side ? side : 1;
    const int64_t terms = (int64_t)in * k * k, count = out * terms;
    float scale = 2.0f;
    for (double spread = 1.0; spread * spread * 4 <= (double)terms; spread *= 2)
        scale /= 2;
    float *values = malloc((size_t)count * sizeof *values);
    assert_non_null(values);
    const float *from = some_numbers(count, 7);
    for (int64_t i = 0; i < count; i++)
        values[i] = from[i] * scale;
    ks_view w = view_of(values, side ? 4 : 2, out, in, k);
    ks_view b = view_of(some_numbers(out, 8), 1, out, 0, 0);
    ks_error err = KS_ERROR_NONE;
    ks_weight *weight = ops->weight(ops, use, 1, &w, bias ? &b : NULL, &err);
    if (!weight)
        fail_msg("%s", err.text);
    free(values);
    return weight;
}

static inline ks_weight *new_norm(ks_ops *ops, int c)
{
    ks_view gamma = view_of(some_numbers(c, 9), 1, c, 0, 0);
    ks_view beta = view_of(some_numbers(c, 10), 1, c, 0, 0);
    ks_error err = KS_ERROR_NONE;
    ks_weight *weight = ops->norm_weight(ops, &gamma, &beta, &err);
    if (!weight)
        fail_msg("%s", err.text);
    return weight;
}

/* Tokens that row i of the keys has where a case masks them. */
static inline int masked_length(const op_case *t, int i)
{
    return i % 3 == 0 ? t->extra : 1 + (t->extra * (i % 3)) / 3;
}

static inline void new_attention(operands *o)
{
    const op_case *t = o->t;
    if (has(t, FUSED_QKV)) {
        ks_act qkv = new_act(o, o->n, t->h, t->w, 3 * t->in);
        o->x = qkv; /* filled as a whole */
        o->a = channels_of(o, qkv, t->in, t->in);
        o->b = channels_of(o, qkv, 2 * t->in, t->in);
        return;
    }
    o->x = new_act(o, o->n, t->h, t->w, t->in);
    o->a = new_act(o, o->n, t->extra, 1, t->in);
    o->b = new_act(o, o->n, t->extra, 1, t->in);
    if (!has(t, MASKED))
        return;
    int32_t row[64], length[64];
    assert_true(o->n <= 64);
    for (int i = 0; i < o->n; i++) {
        row[i] = o->n - 1 - i;
        length[i] = masked_length(t, i);
    }
    o->kv_row = device_memory(o, (size_t)o->n * sizeof *row);
    o->kv_len = device_memory(o, (size_t)o->n * sizeof *length);
    o->ops->upload(o->ops, o->kv_row, row, (size_t)o->n * sizeof *row);
    o->ops->upload(o->ops, o->kv_len, length, (size_t)o->n * sizeof *length);
}

/* All arrays of a case of n rows, zeros, and its parameters. */
static inline operands new_operands(ks_ops *ops, const op_case *t, int n)
{
    operands o = {.ops = ops, .t = t, .n = n};
    const int oh = out_side(t, t->h), ow = out_side(t, t->w);
    if (t->what == ATTENTION)
        new_attention(&o);
    else
        o.x = new_act(&o, n, t->h, t->w, t->in);
    bool unary = t->what == GROUP_NORM || t->what == LAYER_NORM || t->what == ACTIVATE;
    o.y = unary && has(t, IN_PLACE) ? o.x : new_act(&o, n, oh, ow, t->out);
    if (t->what == CONV || t->what == LINEAR)
        o.w = new_weight(ops,
                         t->what == LINEAR   ? KS_USE_LINEAR
                         : has(t, UPSAMPLE) ? KS_USE_UPSAMPLE
                                            : KS_USE_CONV,
                         t->out, t->in,
                         t->extra, !has(t, NO_BIAS));
    else if (t->what == GEGLU)
        o.w = new_weight(ops, KS_USE_GEGLU, 2 * t->out, t->in, 0, true);
    else if (t->what == GROUP_NORM || t->what == LAYER_NORM)
        o.w = new_norm(ops, t->in);
    if (has(t, NORMED)) {
        o.norm = new_norm(ops, t->in);
        if (!ops->absorb_norm || !ops->absorb_norm(ops, o.w, o.norm, 1e-5f))
            o.normed = new_act(&o, n, t->h, t->w, t->in);
    }
    if (t->what == CONCAT)
        o.a = new_act(&o, n, t->h, t->w, t->out - t->in);
    if (t->what == ADD)
        o.a = new_act(&o, n, t->h, t->w, t->in);
    if (has(t, ROW_BIAS))
        o.row_bias = new_act(&o, n, 1, 1, t->out);
    if (has(t, RESIDUAL))
        o.residual = has(t, IN_PLACE) ? o.y : new_act(&o, n, oh, ow, t->out);
    return o;
}

static inline void free_operands(operands *o)
{
    for (int i = 0; i < o->count; i++)
        o->ops->release(o->ops, o->memory[i]);
    o->ops->weight_free(o->ops, o->w);
    o->ops->weight_free(o->ops, o->norm);
}

/* What a layer reads: x, or its layer norm where the weight does not make it. */
static inline ks_act layer_input(const operands *o)
{
    if (!o->normed.data)
        return o->x;
    o->ops->layer_norm(o->ops, o->normed, o->x, o->norm, 1e-5f);
    return o->normed;
}

static inline void run_case(const operands *o)
{
    const op_case *t = o->t;
    ks_ops *ops = o->ops;
    const ks_conv conv = {.stride = has(t, STRIDE2) ? 2 : 1,
                          .pad = t->extra / 2,
                          .upsample = has(t, UPSAMPLE),
                          .row_bias = o->row_bias,
                          .residual = o->residual};
    const ks_attention how = {.heads = t->heads,
                              .causal = has(t, CAUSAL),
                              .kv_row = o->kv_row,
                              .kv_len = o->kv_len};
    ks_act q = o->x;
    q.c = t->in;
    switch (t->what) {
    case CONV:
        ops->conv(ops, o->y, o->x, o->w, &conv);
        break;
    case LINEAR:
        ops->linear(ops, o->y, layer_input(o), o->w, t->activation, o->residual);
        break;
    case GEGLU:
        ops->geglu(ops, o->y, layer_input(o), o->w);
        break;
    case GROUP_NORM:
        ops->group_norm(ops, o->y, o->x, o->w, t->extra, 1e-5f, t->activation == KS_ACT_SILU);
        break;
    case LAYER_NORM:
        ops->layer_norm(ops, o->y, o->x, o->w, 1e-5f);
        break;
    case ATTENTION:
        ops->attention(ops, o->y, q, o->a, o->b, &how);
        break;
    case CONCAT:
        ops->concat(ops, o->y, o->x, o->a);
        break;
    case ADD:
        ops->add(ops, o->y, o->x, o->a);
        break;
    case ACTIVATE:
        ops->activate(ops, o->y, o->x, t->activation);
        break;
    }
}

static inline void no_failure(ks_ops *ops, const char *where)
{
    ks_error err = KS_ERROR_NONE;
    if (ops->sync(ops, &err) != 0)
        fail_msg("%s: %s", where, err.text);
}

/* For a program's beginning: ends it as skipped where there is no GPU, and with 1 where it cannot be used. */
static inline ks_ops *gpu_or_skip(const char *precision)
{
    ks_error err = KS_ERROR_NONE;
    if (!ks_cuda_device_count())
        exit(SKIPPED);
    ks_ops *ops = ks_ops_cuda(0, precision, &err);
    if (ops)
        return ops;
    fprintf(stderr, "%s\n", err.text);
    exit(1);
}

static inline ks_ops *new_gpu(const char *precision)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = ks_ops_cuda(0, precision, &err);
    if (!ops)
        fail_msg("%s", err.text);
    return ops;
}

/* The way that the last new convolution or linear layer was given, for a table. */
static inline const char *engine_text(ks_ops *ops, const op_case *t)
{
    static const char *const engines[] = {"fused", "cudnn", "columns", "own"};
    const ks_cuda *c = ks_cuda_of(ops);
    if (t->what == CONV && ks_cuda_gemm_fits_conv(c->type, t->extra, t->extra, t->in, t->out))
        return "gemm";
    if (t->what == CONV && c->convs > 0)
        return engines[c->conv[c->convs - 1]->engine];
    if ((t->what == LINEAR || t->what == GEGLU) &&
        ks_cuda_gemm_fits(c->type, t->in, t->what == GEGLU ? 2 * t->out : t->out))
        return "gemm";
    if ((t->what == LINEAR || t->what == GEGLU) && c->linears > 0)
        return c->linear[c->linears - 1]->library ? "cublasLt" : "own";
    return "";
}

#endif
