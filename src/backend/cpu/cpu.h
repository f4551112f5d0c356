/* The CPU backend's own state, shared by the files of this folder.
 *
 * Work is cut into tasks by shapes alone (rows, tiles of pixels, tiles of columns), every task
 * writes only its own part of y, and every BLAS call runs on one thread: so a row's bits depend on
 * neither its place, nor its neighbours, nor the number of threads. */
#ifndef KS_BACKEND_CPU_CPU_H
#define KS_BACKEND_CPU_CPU_H

#include "backend/cpu/vector.h"
#include "backend/ops.h"
#include "base/threads.h"

typedef struct ks_cpu_chunk {
    char *data;
    size_t start, size; /* start: the sizes of the chunks before it */
} ks_cpu_chunk;

typedef struct ks_cpu_scratch {
    float *data;
    size_t count;
} ks_cpu_scratch;

typedef struct ks_cpu {
    ks_ops ops;
    ks_threads *pool;
    const ks_vector *vector;
    ks_cpu_scratch *scratch; /* one for each worker */
    ks_cpu_scratch shared;   /* of an operation as a whole */
    ks_cpu_chunk *chunk;     /* activations */
    int chunks, current;
    size_t used; /* bytes taken of chunk[current] */
    ks_group *tensor, *replica; /* NULL before this rank has joined others */
    bool failed;
    ks_error failure;
} ks_cpu;

/* Linear or convolution: data[(tap * in + i) * ld + o], ld = out rounded up to whole cache lines,
 * bias[o] or NULL. Norm: data gamma, bias beta, out channels. Table: data[row * ld + i], `out` rows
 * of `in`. */
struct ks_weight {
    float *data, *bias;
    int out, in, kh, kw;
    int64_t ld;
};

static inline ks_cpu *ks_cpu_of(ks_ops *ops)
{
    return ops->self;
}

/* Element 0 of pixel `pixel` (of h * w) of row `row`. */
static inline float *ks_cpu_at(ks_act a, int row, int64_t pixel)
{
    return (float *)a.data + ((int64_t)row * a.h * a.w + pixel) * a.stride;
}

static inline int64_t ks_cpu_pixels(ks_act a)
{
    return (int64_t)a.h * a.w;
}

static inline int64_t ks_cpu_min(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* --- state.c --- */

/* Keeps the first failure. */
void ks_cpu_fail(ks_cpu *cpu, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Whether an operation shall run: no failure is kept and its shapes fit; shapes that do not are a
 * failure. */
bool ks_cpu_runs(ks_cpu *cpu, bool fits, const char *operation, ks_act y, ks_act x);
bool ks_cpu_same_shape(ks_act a, ks_act b);
/* Memory of `bytes` at a cache line's start; NULL without memory. free() it. */
void *ks_cpu_memory(size_t bytes);
/* At least `floats` in every worker's scratch; -1 and a kept failure without memory. Steady shapes
 * allocate once. */
int ks_cpu_need_scratch(ks_cpu *cpu, int64_t floats);
/* At least `floats` in the scratch of the whole operation; NULL and a kept failure without
 * memory. */
float *ks_cpu_shared_scratch(ks_cpu *cpu, int64_t floats);
static inline float *ks_cpu_worker_scratch(ks_cpu *cpu, int worker)
{
    return cpu->scratch[worker].data;
}

size_t ks_cpu_mark(ks_ops *ops);
void ks_cpu_unwind(ks_ops *ops, size_t mark);
ks_act ks_cpu_act(ks_ops *ops, int n, int h, int w, int c);

/* --- machine.c --- */

void ks_cpu_describe(char *text, size_t size);
size_t ks_cpu_memory_free(ks_ops *ops);

/* --- tiles.c: how work is cut --- */

/* Each row's pixels and columns in tiles; a task is one of each. */
typedef struct ks_cpu_tiles {
    int64_t pixels;
    int columns, pixel_tile, column_tile, pixel_tiles, column_tiles;
} ks_cpu_tiles;

typedef struct ks_cpu_tile {
    int row;
    int64_t pixel;
    int pixels, column, columns;
} ks_cpu_tile;

/* For products with `depth` terms a sum. */
ks_cpu_tiles ks_cpu_product_tiles(int64_t pixels, int columns, int64_t depth);
/* For loops over elements: whole pixels of `columns` channels. */
ks_cpu_tiles ks_cpu_pixel_tiles(ks_act a);
int ks_cpu_tasks(const ks_cpu_tiles *tiles, int rows);
ks_cpu_tile ks_cpu_tile_of(const ks_cpu_tiles *tiles, int task);

/* --- product.c: matrix products --- */

/* One BLAS thread from now on; more come from the pool. */
void ks_cpu_single_blas_thread(void);
/* Under a limit of virtual memory, takes what the BLAS will need for so many threads; fails where it is not to be had. */
int ks_cpu_reserve_blas(int threads, ks_error *err);
/* c = alpha a b + beta c, row-major; a [m, k], b [k, n] or, transposed, [n, k]. */
void ks_cpu_gemm(int m, int n, int k, float alpha, const float *a, int64_t lda, const float *b,
                 int64_t ldb, bool b_transposed, float beta, float *c, int64_t ldc);
/* y += x w over a weight's terms [term, term + terms) and the columns from `column` on. */
void ks_cpu_accumulate(const ks_cpu *cpu, float *y, int64_t ldy, int pixels, int columns,
                       const float *x, int64_t ldx, const ks_weight *w, int64_t term, int64_t terms,
                       int column);
/* y = bias + residual for each pixel; either may be NULL; residual may be y. */
void ks_cpu_start_sum(const ks_cpu *cpu, float *y, int64_t ldy, int pixels, int columns,
                      const float *bias, const float *residual, int64_t ldr);

/* --- operations, as ops.h describes them --- */

ks_weight *ks_cpu_weight(ks_ops *ops, ks_weight_use use, int parts, const ks_view *w,
                         const ks_view *bias, ks_error *err);
ks_weight *ks_cpu_norm_weight(ks_ops *ops, const ks_view *gamma, const ks_view *beta,
                              ks_error *err);
ks_weight *ks_cpu_table(ks_ops *ops, const ks_view *table, ks_error *err);
void ks_cpu_weight_free(ks_ops *ops, ks_weight *w);

void ks_cpu_conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how);
void ks_cpu_linear(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, ks_activation activation,
                   ks_act residual);
void ks_cpu_geglu(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w);
void ks_cpu_group_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, int groups, float eps,
                       bool silu);
void ks_cpu_layer_norm(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, float eps);
void ks_cpu_attention(ks_ops *ops, ks_act y, ks_act q, ks_act k, ks_act v, const ks_attention *how);
void ks_cpu_concat(ks_ops *ops, ks_act y, ks_act a, ks_act b);
void ks_cpu_add(ks_ops *ops, ks_act y, ks_act a, ks_act b);
void ks_cpu_activate(ks_ops *ops, ks_act y, ks_act x, ks_activation activation);
void ks_cpu_timestep_embedding(ks_ops *ops, ks_act y, const float *t);
void ks_cpu_embedding(ks_ops *ops, ks_act y, const int32_t *ids, const ks_weight *tokens,
                      const ks_weight *positions);
void ks_cpu_from_latents(ks_ops *ops, ks_act y, const float *const *x, const float *scale);
void ks_cpu_to_latents(ks_ops *ops, float *const *out, ks_act x);
void ks_cpu_from_floats(ks_ops *ops, ks_act y, const float *x);
void ks_cpu_to_floats(ks_ops *ops, float *out, ks_act x);
void ks_cpu_to_rgb(ks_ops *ops, uint8_t *rgb, ks_act x);
void ks_cpu_lincomb(ks_ops *ops, const ks_lincomb_op *op, int count);
void ks_cpu_crop(ks_ops *ops, float *out, const float *x, int channels, int height, int width,
                 ks_window at);
void ks_cpu_blend(ks_ops *ops, const ks_blend_op *op);
void ks_cpu_inpaint(ks_ops *ops, const ks_inpaint_op *op);
void ks_cpu_error_norm(ks_ops *ops, double *out, const float *a, const float *b, const float *c,
                       int64_t n, double atol, double rtol);
void ks_cpu_all_finite(ks_ops *ops, int *out, const float *a, int64_t n);
int ks_cpu_join(ks_ops *ops, ks_group *tensor, ks_group *replica, ks_error *err);
void ks_cpu_all_reduce(ks_ops *ops, ks_act y);
void ks_cpu_broadcast(ks_ops *ops, void *device, size_t bytes);
void ks_cpu_gather(ks_ops *ops, void *device, size_t bytes);

#endif
