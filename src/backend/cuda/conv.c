/* Convolutions. In half precision on Hopper those of 3 x 3 are made by the own product
 * (kernels/gemm.h). Else a shape's engine is the first of these that can do it and keeps rows' bits:
 * cuDNN with bias and residual in its epilogue, cuDNN alone, patches gathered for a linear layer, the
 * own direct kernel. cuDNN's algorithm is always the implicit GEMM; some of its kernels split sums over the
 * whole batch, which is what the trial finds out. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "kernels/elementwise.h"
#include "kernels/gemm.h"
#include "kernels/product.h"

static const ks_act absent = {0};
static const cudnnConvolutionFwdAlgo_t algorithm = CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM;

/* A convolution that is asked for. */
typedef struct convolution {
    const ks_weight *w;
    ks_conv how;
    ks_cuda_window window;
    ks_cuda_conv_plan *plan;
} convolution;

/* --- shapes --- */

/* The size that the kernel sees along one axis: `in`, or upsampled. An upsampled x of odd use gives
 * 2 * in - 1: then y says so, and the last copy is cut off before the kernel runs. */
static int seen(int in, int out, const ks_conv *how)
{
    return how->upsample ? (out == 2 * in - 1 ? out : 2 * in) : in;
}

static ks_cuda_window window_of(ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    return (ks_cuda_window){.kh = w->kh,
                            .kw = w->kw,
                            .stride = how->stride,
                            .pad = how->pad,
                            .height = seen(x.h, y.h, how),
                            .width = seen(x.w, y.w, how),
                            .upsample = how->upsample};
}

static bool fits_axis(int size, int out, int kernel, const ks_conv *how)
{
    return size + 2 * how->pad >= kernel && out == (size + 2 * how->pad - kernel) / how->stride + 1;
}

static bool conv_fits(ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    const ks_act bias = how->row_bias;
    return w->in == x.c && w->out == y.c && x.n == y.n && how->stride > 0 &&
           fits_axis(seen(x.h, y.h, how), y.h, w->kh, how) &&
           fits_axis(seen(x.w, y.w, how), y.w, w->kw, how) &&
           (!bias.data || (bias.n == y.n && ks_cuda_pixels(bias) == 1 && bias.c == y.c)) &&
           (!how->residual.data || ks_cuda_same_shape(how->residual, y));
}

static bool dense(ks_act a)
{
    return a.stride == a.c;
}

/* --- cuDNN: what it refuses is left to the next engine --- */

static cudnnDataType_t type_of(const ks_cuda *c)
{
    static const cudnnDataType_t types[] = {
        [KS_F32] = CUDNN_DATA_FLOAT, [KS_F16] = CUDNN_DATA_HALF, [KS_BF16] = CUDNN_DATA_BFLOAT16};
    return types[c->type];
}

static bool taken(cudnnStatus_t status)
{
    return status == CUDNN_STATUS_SUCCESS;
}

static bool describe_tensor(const ks_cuda *c, cudnnTensorDescriptor_t *t, int n, int h, int w,
                            int k)
{
    return taken(cudnnCreateTensorDescriptor(t)) &&
           taken(cudnnSetTensor4dDescriptor(*t, CUDNN_TENSOR_NHWC, type_of(c), n, k, h, w));
}

static bool describe_weight(const ks_cuda *c, ks_cuda_conv_plan *p, const ks_weight *w)
{
    return taken(cudnnCreateFilterDescriptor(&p->w)) &&
           taken(cudnnSetFilter4dDescriptor(p->w, type_of(c), CUDNN_TENSOR_NHWC, w->out, w->in,
                                            w->kh, w->kw));
}

static bool describe_window(const ks_cuda *c, ks_cuda_conv_plan *p, const ks_cuda_window *w)
{
    const cudnnMathType_t math = c->type == KS_F32 ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH;
    return taken(cudnnCreateConvolutionDescriptor(&p->window)) &&
           taken(cudnnSetConvolution2dDescriptor(p->window, w->pad, w->pad, w->stride, w->stride, 1,
                                                 1, CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT)) &&
           taken(cudnnSetConvolutionMathType(p->window, math)) &&
           taken(cudnnCreateActivationDescriptor(&p->identity)) &&
           taken(cudnnSetActivationDescriptor(p->identity, CUDNN_ACTIVATION_IDENTITY,
                                              CUDNN_NOT_PROPAGATE_NAN, 0.0));
}

static void free_descriptors(ks_cuda_conv_plan *p)
{
    cudnnTensorDescriptor_t const tensors[] = {p->x, p->y, p->bias};
    for (size_t k = 0; k < sizeof tensors / sizeof *tensors; k++)
        if (tensors[k])
            cudnnDestroyTensorDescriptor(tensors[k]);
    if (p->w)
        cudnnDestroyFilterDescriptor(p->w);
    if (p->window)
        cudnnDestroyConvolutionDescriptor(p->window);
    if (p->identity)
        cudnnDestroyActivationDescriptor(p->identity);
    p->x = p->y = p->bias = NULL;
    p->w = NULL;
    p->window = NULL;
    p->identity = NULL;
}

/* The plan's descriptors; false when cuDNN does not know such a convolution. */
static bool describe(ks_cuda *c, const convolution *g, ks_act y, ks_act x)
{
    ks_cuda_conv_plan *p = g->plan;
    if (p->described)
        return true;
    p->described =
        describe_tensor(c, &p->x, x.n, g->window.height, g->window.width, x.c) &&
        describe_tensor(c, &p->y, y.n, y.h, y.w, y.c) &&
        describe_tensor(c, &p->bias, 1, 1, 1, y.c) && describe_weight(c, p, g->w) &&
        describe_window(c, p, &g->window) &&
        taken(cudnnGetConvolutionForwardWorkspaceSize(c->dnn, p->x, p->w, p->window, p->y,
                                                      algorithm, &p->workspace));
    if (!p->described)
        free_descriptors(p);
    return p->described;
}

/* x as cuDNN needs it: dense, and upsampled where the convolution is. */
static ks_act prepared(ks_cuda *c, const convolution *g, ks_act x)
{
    if (!g->window.upsample && dense(x))
        return x;
    ks_act made = ks_cuda_act(&c->ops, x.n, g->window.height, g->window.width, x.c);
    if (c->failed)
        return made;
    if (g->window.upsample)
        KS_CUDA_CALL(c, ks_cuda_upsample(c->stream, c->type, made, x));
    else
        KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, made, x, NULL, absent, KS_ACT_NONE,
                                       absent));
    return made;
}

/* cuDNN on dense tensors; residual is used where fused is true. */
static bool run_library(ks_cuda *c, const convolution *g, ks_act y, ks_act x, ks_act residual,
                        bool fused)
{
    const ks_cuda_conv_plan *p = g->plan;
    const float one = 1.0f, zero = 0.0f;
    x = prepared(c, g, x);
    void *workspace = p->workspace ? ks_cuda_take(c, p->workspace) : NULL;
    if (c->failed)
        return false;
    if (!fused)
        return taken(cudnnConvolutionForward(c->dnn, &one, p->x, x.data, p->w, g->w->data,
                                             p->window, algorithm, workspace, p->workspace, &zero,
                                             p->y, y.data));
    return taken(cudnnConvolutionBiasActivationForward(
        c->dnn, &one, p->x, x.data, p->w, g->w->data, p->window, algorithm, workspace, p->workspace,
        residual.data ? &one : &zero, p->y, residual.data ? residual.data : y.data, p->bias,
        g->w->bias_typed, p->identity, p->y, y.data));
}

/* --- the engines --- */

static bool by_fused_library(ks_cuda *c, const convolution *g, ks_act y, ks_act x, ks_act row_bias,
                             ks_act residual)
{
    if (row_bias.data || !g->w->bias || !dense(y) || (residual.data && !dense(residual)))
        return false;
    return describe(c, g, y, x) && run_library(c, g, y, x, residual, true);
}

static bool by_library(ks_cuda *c, const convolution *g, ks_act y, ks_act x, ks_act row_bias,
                       ks_act residual)
{
    if (!describe(c, g, y, x))
        return false;
    bool apart = !dense(y) || y.data == residual.data;
    ks_act sum = apart ? ks_cuda_act(&c->ops, y.n, y.h, y.w, y.c) : y;
    if (c->failed || !run_library(c, g, sum, x, absent, false))
        return false;
    if (!apart && !g->w->bias && !row_bias.data && !residual.data)
        return true;
    return KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, y, sum, g->w->bias, row_bias,
                                          KS_ACT_NONE, residual));
}

/* Pixels of one product, so that their patches need at most PATCHES bytes: several whole rows, the
 * same number each time, or a part of one. */
static int64_t pixels_at_once(const ks_cuda *c, const convolution *g, ks_act y)
{
    enum { PATCHES = 512 << 20 };
    const int64_t row = ks_cuda_pixels(y), terms = (int64_t)g->w->kh * g->w->kw * g->w->in;
    int64_t fit = PATCHES / (terms * (int64_t)ks_cuda_element(c));
    int rows = y.n;
    while (rows > 1 && (y.n % rows != 0 || rows * row > fit))
        rows--;
    if (rows * row <= fit)
        return rows * row;
    return fit > 0 ? fit : 1;
}

/* Pixels [first, first + count) of a as tokens: rows of them, or a part of one. */
static ks_act tokens_of(const ks_cuda *c, ks_act a, int64_t first, int64_t count)
{
    const int64_t row = ks_cuda_pixels(a);
    a.data = (char *)a.data + (size_t)(first * a.stride) * ks_cuda_element(c);
    a.n = count % row == 0 ? (int)(count / row) : 1;
    a.h = (int)(count / a.n);
    a.w = 1;
    return a;
}

static bool by_columns(ks_cuda *c, const convolution *g, ks_act y, ks_act x, ks_act row_bias,
                       ks_act residual)
{
    const int64_t row = ks_cuda_pixels(y), all = y.n * row, most = pixels_at_once(c, g, y);
    const int terms = g->w->kh * g->w->kw * g->w->in;
    const bool apart = row_bias.data != NULL; /* then bias, row bias and residual come last */
    ks_act sum = apart && y.data == residual.data ? ks_cuda_act(&c->ops, y.n, y.h, y.w, y.c) : y;
    ks_act patches = ks_cuda_act(&c->ops, 1, (int)most, 1, terms);
    for (int64_t first = 0, count; first < all && !c->failed; first += count) {
        int64_t left = row - first % row;
        count = most >= row || most < left ? most : left;
        ks_act to = tokens_of(c, sum, first, count), from = to, added = absent;
        from.data = patches.data;
        from.c = terms;
        from.stride = terms;
        if (residual.data && !apart)
            added = tokens_of(c, residual, first, count);
        if (!KS_CUDA_CALL(c, ks_cuda_columns(c->stream, c->type, patches.data, y, x, g->window,
                                             first, count)) ||
            !ks_cuda_product(c, to, from, g->w, !apart, added))
            return false;
    }
    if (!apart || c->failed)
        return !c->failed;
    return KS_CUDA_CALL(c, ks_cuda_finish(c->stream, c->type, y, sum, g->w->bias, row_bias,
                                          KS_ACT_NONE, residual));
}

static bool by_kernel(ks_cuda *c, const convolution *g, ks_act y, ks_act x, ks_act row_bias,
                      ks_act residual)
{
    return KS_CUDA_CALL(c, ks_cuda_direct(c->stream, c->type, y, x, g->w->data, g->w->bias,
                                          g->window, row_bias, KS_ACT_NONE, residual));
}

static bool run(ks_cuda *c, const void *how, ks_act y, ks_act x, ks_act row_bias, ks_act residual)
{
    static bool (*const engines[KS_CUDA_CONV_ENGINES])(ks_cuda *, const convolution *, ks_act,
                                                       ks_act, ks_act, ks_act) = {
        [KS_CUDA_CONV_FUSED] = by_fused_library,
        [KS_CUDA_CONV_LIBRARY] = by_library,
        [KS_CUDA_CONV_COLUMNS] = by_columns,
        [KS_CUDA_CONV_DIRECT] = by_kernel,
    };
    const convolution *g = how;
    size_t mark = ks_cuda_mark(&c->ops);
    bool done = engines[g->plan->engine](c, g, y, x, row_bias, residual);
    ks_cuda_unwind(&c->ops, mark);
    return done;
}

/* --- plans --- */

static void describe_key(int64_t *key, ks_act y, ks_act x, const convolution *g)
{
    const ks_conv *how = &g->how;
    const int64_t values[KS_CUDA_CONV_KEY] = {
        y.n,
        y.h,
        y.w,
        y.c,
        x.h,
        x.w,
        x.c,
        g->w->kh,
        g->w->kw,
        how->stride,
        how->pad,
        how->upsample,
        y.stride,
        x.stride,
        how->residual.data ? how->residual.stride : 0,
        how->row_bias.data ? how->row_bias.stride : 0,
        g->w->bias != NULL,
        how->residual.data == y.data,
    };
    memcpy(key, values, sizeof values);
}

static ks_cuda_conv_plan *new_plan(ks_cuda *c, const int64_t *key)
{
    ks_cuda_conv_plan **grown =
        realloc(c->conv, (size_t)(c->convs + 1) * sizeof(ks_cuda_conv_plan *));
    if (grown)
        c->conv = grown;
    ks_cuda_conv_plan *p = grown ? calloc(1, sizeof *p) : NULL;
    if (!p) {
        ks_cuda_fail(c, "cuda backend: no memory for a convolution's plan");
        return NULL;
    }
    memcpy(p->key, key, sizeof p->key);
    c->conv[c->convs++] = p;
    return p;
}

static ks_cuda_conv_plan *find_plan(ks_cuda *c, const int64_t *key)
{
    for (int i = 0; i < c->convs; i++)
        if (memcmp(c->conv[i]->key, key, sizeof c->conv[i]->key) == 0)
            return c->conv[i];
    return NULL;
}

/* The first engine that works and keeps rows' bits; the last always does. */
static void choose(ks_cuda *c, const convolution *g, ks_act y, ks_act x)
{
    const ks_cuda_trial trial = {.y = y,
                                 .x = x,
                                 .row_bias = g->how.row_bias,
                                 .residual = g->how.residual,
                                 .run = run,
                                 .how = g};
    for (int i = 0; i < KS_CUDA_CONV_DIRECT && !c->failed; i++) {
        g->plan->engine = (ks_cuda_conv_engine)i;
        if (ks_cuda_keeps_rows(c, &trial))
            return;
    }
    g->plan->engine = KS_CUDA_CONV_DIRECT;
}

static void drop_last_plan(ks_cuda *c)
{
    ks_cuda_conv_plan *p = c->conv[--c->convs];
    free_descriptors(p);
    free(p);
}

void ks_cuda_conv_plans_free(ks_cuda *c)
{
    while (c->convs > 0)
        drop_last_plan(c);
    free(c->conv);
}

/* The plan for a shape, made when it first comes; NULL after a failure. */
static ks_cuda_conv_plan *plan_for(ks_cuda *c, convolution *g, ks_act y, ks_act x)
{
    int64_t key[KS_CUDA_CONV_KEY];
    describe_key(key, y, x, g);
    g->plan = find_plan(c, key);
    if (g->plan)
        return g->plan;
    g->plan = new_plan(c, key);
    if (g->plan)
        choose(c, g, y, x);
    if (g->plan && c->failed)
        drop_last_plan(c);
    return c->failed ? NULL : g->plan;
}

/* --- the own product --- */

/* x where the own product can read it; upsampled, unless the product does that itself. */
static ks_act readable(ks_cuda *c, const convolution *g, ks_act x, bool upsample)
{
    if (upsample)
        return prepared(c, g, x);
    ks_act from = ks_cuda_aligned(c, x);
    ks_cuda_copy(c, from, x);
    return from;
}

/* Whether the product reads x as it is and sees it upsampled. */
static bool in_phases(const convolution *g, ks_act y, ks_act x)
{
    return g->window.upsample && g->w->phases && g->window.pad == 1 && g->window.stride == 1 &&
           y.h == 2 * x.h && y.w == 2 * x.w;
}

/* A packed weight's convolution; what cannot be read or written where it lies passes through
 * scratch. */
static void multiply_packed(ks_cuda *c, const convolution *g, ks_act y, ks_act x)
{
    const ks_conv *how = &g->how;
    ks_cuda_window window = g->window;
    window.upsample = in_phases(g, y, x);
    size_t mark = ks_cuda_mark(&c->ops);
    ks_act to = ks_cuda_aligned(c, y);
    ks_act from = readable(c, g, x, g->window.upsample && !window.upsample);
    const ks_cuda_gemm_epilogue after = {.bias = g->w->bias,
                                         .row_bias = ks_cuda_aligned(c, how->row_bias),
                                         .residual = ks_cuda_aligned(c, how->residual)};
    const size_t parts = ks_cuda_gemm_conv_workspace(to, &window, g->w->in);
    void *workspace = parts ? ks_cuda_take(c, parts) : NULL;
    if (ks_cuda_copy(c, after.row_bias, how->row_bias) &&
        ks_cuda_copy(c, after.residual, how->residual) &&
        KS_CUDA_CALL(c, ks_cuda_gemm_conv(c->stream, c->type, to, from,
                                          window.upsample ? g->w->phases : g->w->data, &window,
                                          &after, workspace)))
        ks_cuda_copy(c, y, to);
    ks_cuda_unwind(&c->ops, mark);
}

/* --- operations --- */

void ks_cuda_conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (!ks_cuda_runs(c, conv_fits(y, x, w, how), "conv", y, x))
        return;
    convolution g = {.w = w, .how = *how, .window = window_of(y, x, w, how)};
    if (w->packed)
        multiply_packed(c, &g, y, x);
    else if (plan_for(c, &g, y, x) && !run(c, &g, y, x, how->row_bias, how->residual))
        ks_cuda_fail(c, "GPU %d: a convolution from [%d, %d, %d, %d] to %d channels was refused",
                     c->device, x.n, x.h, x.w, x.c, y.c);
}

bool ks_cuda_conv_by(ks_ops *ops, ks_cuda_conv_engine engine, ks_act y, ks_act x,
                     const ks_weight *w, const ks_conv *how)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (!ks_cuda_runs(c, !w->packed && conv_fits(y, x, w, how), "conv", y, x))
        return false;
    convolution g = {.w = w, .how = *how, .window = window_of(y, x, w, how)};
    int64_t key[KS_CUDA_CONV_KEY];
    describe_key(key, y, x, &g);
    key[KS_CUDA_CONV_KEY - 1] = 1 + (int64_t)engine; /* beside the plan that was chosen */
    g.plan = find_plan(c, key);
    if (!g.plan)
        g.plan = new_plan(c, key);
    if (!g.plan)
        return false;
    g.plan->engine = engine;
    return run(c, &g, y, x, how->row_bias, how->residual);
}
