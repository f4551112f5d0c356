/* Linear layers: in half precision on Hopper the own product (kernels/gemm.h); else cuBLASLt where
 * channels fill whole 16 bytes (any in float32), the direct kernel elsewhere. A shape's algorithm
 * of cuBLASLt is the first of its heuristic that keeps rows' bits. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/norm.h"
#include "kernels/product.h"

enum { WORKSPACE = 64 << 20, CANDIDATES = 8, ALIGNED = 16 };

static const ks_act absent = {0};

/* A weight's terms: it is read as [out][terms]. */
static int terms_of(const ks_weight *w)
{
    return w->in * w->kh * w->kw;
}

static int64_t tokens_of(ks_act a)
{
    return a.n * ks_cuda_pixels(a);
}

/* --- plans --- */

typedef struct product {
    const ks_weight *w;
    bool bias;
    ks_cuda_linear_plan *plan;
} product;

/* Bytes that an address and its stride are multiples of, at most 16. */
static int alignment(const ks_cuda *c, ks_act a)
{
    if (!a.data)
        return ALIGNED;
    uintptr_t all = (uintptr_t)a.data | (uintptr_t)a.stride * ks_cuda_element(c) | ALIGNED;
    return (int)(all & -all);
}

static void describe_key(const ks_cuda *c, int64_t *key, ks_act y, ks_act x, const ks_weight *w,
                         bool bias, ks_act residual)
{
    const int64_t values[KS_CUDA_LINEAR_KEY] = {
        y.n,
        ks_cuda_pixels(y),
        w->out,
        terms_of(w),
        x.stride,
        y.stride,
        residual.data ? residual.stride : 0,
        bias,
        alignment(c, x) | alignment(c, y) << 8,
        alignment(c, residual),
    };
    memcpy(key, values, sizeof values);
}

/* The row-major products as cuBLASLt sees them, column-major: y^T = w x^T, with w [out, terms] as a
 * transposed [terms, out]. */
static bool describe(ks_cuda *c, ks_cuda_linear_plan *p, ks_act y, ks_act x, const ks_weight *w,
                     ks_act residual)
{
    static const cudaDataType_t types[] = {
        [KS_F32] = CUDA_R_32F, [KS_F16] = CUDA_R_16F, [KS_BF16] = CUDA_R_16BF};
    const cudaDataType_t type = types[c->type];
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t terms = (uint64_t)terms_of(w), out = (uint64_t)w->out;
    const uint64_t tokens = (uint64_t)tokens_of(y);
    const int64_t ldr = residual.data ? residual.stride : y.stride;
    return KS_CUDA_BLAS(c, cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F,
                                                    CUDA_R_32F)) &&
           KS_CUDA_BLAS(c,
                        cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                       &transposed, sizeof transposed)) &&
           KS_CUDA_BLAS(c, cublasLtMatrixLayoutCreate(&p->w, type, terms, out, (int64_t)terms)) &&
           KS_CUDA_BLAS(c, cublasLtMatrixLayoutCreate(&p->x, type, terms, tokens, x.stride)) &&
           KS_CUDA_BLAS(c, cublasLtMatrixLayoutCreate(&p->residual, type, out, tokens, ldr)) &&
           KS_CUDA_BLAS(c, cublasLtMatrixLayoutCreate(&p->y, type, out, tokens, y.stride));
}

/* Adds the bias inside of the product; its address is set at each call. */
static bool fuse_bias(ks_cuda *c, ks_cuda_linear_plan *p, bool fused, const void *bias)
{
    const cublasLtEpilogue_t epilogue = fused ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    p->bias_fused = fused;
    return KS_CUDA_BLAS(c, cublasLtMatmulDescSetAttribute(p->product, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                          &epilogue, sizeof epilogue)) &&
           (!fused ||
            KS_CUDA_BLAS(c, cublasLtMatmulDescSetAttribute(p->product,
                                                           CUBLASLT_MATMUL_DESC_BIAS_POINTER,
                                                           &bias, sizeof bias)));
}

/* cuBLASLt's algorithms for the plan, best first; sums that are split are joined in float32. */
static int candidates(ks_cuda *c, const ks_cuda_linear_plan *p, ks_act y, ks_act x, ks_act residual,
                      cublasLtMatmulHeuristicResult_t *found)
{
    const size_t workspace = WORKSPACE;
    const uint32_t joined = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, w_aligned = ALIGNED;
    const uint32_t x_aligned = (uint32_t)alignment(c, x), y_aligned = (uint32_t)alignment(c, y);
    const uint32_t r_aligned = residual.data ? (uint32_t)alignment(c, residual) : y_aligned;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t size;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &joined, sizeof joined},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w_aligned, sizeof w_aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &x_aligned, sizeof x_aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &r_aligned, sizeof r_aligned},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y_aligned, sizeof y_aligned},
    };
    cublasLtMatmulPreference_t preference = NULL;
    int count = 0;
    bool good = KS_CUDA_BLAS(c, cublasLtMatmulPreferenceCreate(&preference));
    for (size_t i = 0; good && i < sizeof wishes / sizeof *wishes; i++)
        good = KS_CUDA_BLAS(c, cublasLtMatmulPreferenceSetAttribute(
                                   preference, wishes[i].name, wishes[i].value, wishes[i].size));
    if (good && cublasLtMatmulAlgoGetHeuristic(c->blas, p->product, p->w, p->x, p->residual, p->y,
                                               preference, CANDIDATES, found,
                                               &count) != CUBLAS_STATUS_SUCCESS)
        count = 0;
    if (preference)
        cublasLtMatmulPreferenceDestroy(preference);
    return count;
}

static bool multiply(ks_cuda *c, const void *how, ks_act y, ks_act x, ks_act row_bias,
                     ks_act residual)
{
    (void)row_bias;
    const product *g = how;
    ks_cuda_linear_plan *p = g->plan;
    const float one = 1.0f, beta = residual.data ? 1.0f : 0.0f;
    if (p->bias_fused && !fuse_bias(c, p, true, g->w->bias_typed))
        return false;
    cublasStatus_t status =
        cublasLtMatmul(c->blas, p->product, &one, g->w->data, p->w, x.data, p->x, &beta,
                       residual.data ? residual.data : y.data, p->residual, y.data, p->y,
                       &p->algorithm, c->blas_workspace, WORKSPACE, c->stream);
    if (status == CUBLAS_STATUS_SUCCESS && g->bias && !p->bias_fused)
        return KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, y, y, g->w->bias, absent,
                                              KS_ACT_NONE, absent));
    return status == CUBLAS_STATUS_SUCCESS;
}

/* Takes the first algorithm that works and keeps rows' bits. */
static bool choose(ks_cuda *c, const product *g, ks_act y, ks_act x, ks_act residual)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    const ks_cuda_trial trial = {
        .y = y, .x = x, .residual = residual, .run = multiply, .how = g};
    int count = candidates(c, g->plan, y, x, residual, found);
    for (int i = 0; i < count && !c->failed; i++) {
        if (found[i].state != CUBLAS_STATUS_SUCCESS)
            continue;
        g->plan->algorithm = found[i].algo;
        if (ks_cuda_keeps_rows(c, &trial))
            return true;
    }
    return false;
}

/* Whether cuBLASLt's fast kernels take the shape. */
static bool library_fits(const ks_cuda *c, ks_act y, ks_act x, const ks_weight *w, ks_act residual)
{
    if (c->type == KS_F32)
        return true;
    const int least = alignment(c, y) & alignment(c, x) & alignment(c, residual);
    return least == ALIGNED && w->out % 8 == 0 && terms_of(w) % 8 == 0;
}

static ks_cuda_linear_plan *new_plan(ks_cuda *c, const int64_t *key)
{
    ks_cuda_linear_plan **grown =
        realloc(c->linear, (size_t)(c->linears + 1) * sizeof(ks_cuda_linear_plan *));
    if (grown)
        c->linear = grown;
    ks_cuda_linear_plan *p = grown ? calloc(1, sizeof *p) : NULL;
    if (!p) {
        ks_cuda_fail(c, "cuda backend: no memory for a linear layer's plan");
        return NULL;
    }
    memcpy(p->key, key, sizeof p->key);
    c->linear[c->linears++] = p;
    return p;
}

static void drop_last_plan(ks_cuda *c)
{
    ks_cuda_linear_plan *p = c->linear[--c->linears];
    cublasLtMatrixLayout_t const layouts[] = {p->w, p->x, p->residual, p->y};
    for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++)
        if (layouts[k])
            cublasLtMatrixLayoutDestroy(layouts[k]);
    if (p->product)
        cublasLtMatmulDescDestroy(p->product);
    free(p);
}

void ks_cuda_linear_plans_free(ks_cuda *c)
{
    while (c->linears > 0)
        drop_last_plan(c);
    free(c->linear);
}

/* Finds how cuBLASLt computes the plan's shape, with the bias inside where it can. */
static void choose_library(ks_cuda *c, const product *g, ks_act y, ks_act x, ks_act residual)
{
    ks_cuda_linear_plan *p = g->plan;
    if (!library_fits(c, y, x, g->w, residual) || !describe(c, p, y, x, g->w, residual))
        return;
    for (int fused = g->bias ? 1 : 0; fused >= 0 && !p->library && !c->failed; fused--)
        p->library = fuse_bias(c, p, fused, g->w->bias_typed) && choose(c, g, y, x, residual);
}

/* The plan for a shape, made when it first comes; NULL after a failure. */
static ks_cuda_linear_plan *plan_for(ks_cuda *c, ks_act y, ks_act x, const ks_weight *w, bool bias,
                                     ks_act residual)
{
    int64_t key[KS_CUDA_LINEAR_KEY];
    describe_key(c, key, y, x, w, bias, residual);
    for (int i = 0; i < c->linears; i++)
        if (memcmp(c->linear[i]->key, key, sizeof key) == 0)
            return c->linear[i];
    ks_cuda_linear_plan *p = new_plan(c, key);
    const product g = {w, bias, p};
    if (p)
        choose_library(c, &g, y, x, residual);
    if (p && c->failed)
        drop_last_plan(c);
    return c->failed ? NULL : p;
}

/* --- operations --- */

ks_act ks_cuda_aligned(ks_cuda *c, ks_act a)
{
    return !a.data || alignment(c, a) == ALIGNED ? a : ks_cuda_act(&c->ops, a.n, a.h, a.w, a.c);
}

bool ks_cuda_copy(ks_cuda *c, ks_act to, ks_act from)
{
    return !c->failed &&
           (to.data == from.data ||
            KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, to, from, NULL, absent, KS_ACT_NONE,
                                           absent)));
}

/* Each token's mean and deviation for an absorbed norm; NULL after a failure. */
static const float *moments_of(ks_cuda *c, ks_act x, float eps)
{
    float *moments = ks_cuda_take(c, (size_t)tokens_of(x) * 2 * sizeof *moments);
    if (moments)
        KS_CUDA_CALL(c, ks_cuda_layer_moments(c->stream, c->type, moments, x, eps));
    return c->failed ? NULL : moments;
}

/* The own product; what it cannot read or write where it lies passes through scratch. */
static bool multiply_packed(ks_cuda *c, ks_act y, ks_act x, const ks_weight *w, ks_act residual)
{
    size_t mark = ks_cuda_mark(&c->ops);
    ks_act to = ks_cuda_aligned(c, y), from = ks_cuda_aligned(c, x);
    ks_cuda_gemm_epilogue after = {.gated = w->gated,
                                   .bias = w->bias,
                                   .sums = w->sums,
                                   .residual = ks_cuda_aligned(c, residual)};
    const size_t parts = ks_cuda_gemm_workspace(to, w->in, w->gated);
    void *workspace = parts ? ks_cuda_take(c, parts) : NULL;
    bool good = ks_cuda_copy(c, from, x) && ks_cuda_copy(c, after.residual, residual);
    if (good && w->sums)
        after.moments = moments_of(c, from, w->eps);
    good = good && !c->failed &&
           KS_CUDA_CALL(c, ks_cuda_gemm(c->stream, c->type, to, from, w->data, &after,
                                        workspace)) &&
           ks_cuda_copy(c, y, to);
    ks_cuda_unwind(&c->ops, mark);
    return good;
}

bool ks_cuda_product(ks_cuda *c, ks_act y, ks_act x, const ks_weight *w, bool bias,
                     ks_act residual)
{
    const int64_t tokens = ks_cuda_pixels(y);
    bias = bias && w->bias;
    ks_cuda_linear_plan *p = plan_for(c, y, x, w, bias, residual);
    if (!p)
        return false;
    if (p->library) {
        const product g = {w, bias, p};
        if (!multiply(c, &g, y, x, absent, residual))
            ks_cuda_fail(c, "GPU %d: cuBLASLt refused a linear layer of %d inputs and %d outputs",
                         c->device, terms_of(w), w->out);
        return !c->failed;
    }
    x.h = y.h = 1; /* the kernel looks for pixels: one line of tokens a row */
    x.w = y.w = (int)tokens;
    const ks_cuda_window line = {.kh = 1, .kw = 1, .stride = 1, .height = 1, .width = y.w};
    return KS_CUDA_CALL(c, ks_cuda_direct(c->stream, c->type, y, x, w->data, bias ? w->bias : NULL,
                                          line, absent, KS_ACT_NONE, residual));
}

static bool product_of(ks_cuda *c, ks_act y, ks_act x, const ks_weight *w, ks_act residual)
{
    return w->packed ? multiply_packed(c, y, x, w, residual)
                     : ks_cuda_product(c, y, x, w, true, residual);
}

void ks_cuda_linear(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, ks_activation activation,
                    ks_act residual)
{
    ks_cuda *c = ks_cuda_of(ops);
    bool fits = w->kh * w->kw == 1 && w->in == x.c && w->out == y.c && x.n == y.n &&
                ks_cuda_pixels(x) == ks_cuda_pixels(y) &&
                (!residual.data || ks_cuda_same_shape(residual, y));
    if (!ks_cuda_runs(c, fits, "linear", y, x))
        return;
    if (activation == KS_ACT_NONE) {
        product_of(c, y, x, w, residual);
        return;
    }
    size_t mark = ops->mark(ops);
    ks_act sum = residual.data ? ops->act(ops, y.n, y.h, y.w, y.c) : y; /* y may be residual */
    if (!c->failed && product_of(c, sum, x, w, absent))
        KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, y, sum, NULL, absent, activation,
                                       residual));
    ops->unwind(ops, mark);
}

void ks_cuda_geglu(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w)
{
    ks_cuda *c = ks_cuda_of(ops);
    bool fits = w->kh * w->kw == 1 && w->in == x.c && w->out == 2 * y.c && x.n == y.n &&
                ks_cuda_pixels(x) == ks_cuda_pixels(y);
    if (!ks_cuda_runs(c, fits, "geglu", y, x))
        return;
    if (w->packed) {
        multiply_packed(c, y, x, w, absent);
        return;
    }
    size_t mark = ops->mark(ops);
    ks_act both = ops->act(ops, y.n, y.h, y.w, 2 * y.c);
    if (!c->failed && ks_cuda_product(c, both, x, w, true, absent))
        KS_CUDA_CALL(c, ks_cuda_gate(c->stream, c->type, y, both));
    ops->unwind(ops, mark);
}
