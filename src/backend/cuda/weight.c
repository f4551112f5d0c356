/* Parameters: a file's bytes go up as they are and are converted on the device. */
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/cuda.h"
#include "backend/parameter.h"
#include "kernels/gemm.h"
#include "kernels/parameters.h"

/* --- packing --- */

/* Elements [at, at + out * in * taps) of `to`, of type `type`, from a view. */
static bool pack(ks_cuda *c, ks_dtype type, void *to, int64_t at, const ks_view *v, int64_t out,
                 int64_t in, int64_t taps)
{
    size_t mark = ks_cuda_mark(&c->ops);
    size_t bytes = (size_t)(out * in * taps) * (size_t)ks_parameter_bytes(v->dtype);
    size_t element = type == KS_F32 ? 4 : 2;
    void *raw = ks_cuda_take(c, bytes);
    ks_cuda_upload(&c->ops, raw, v->data, bytes);
    bool good = !c->failed && KS_CUDA_CALL(c, ks_cuda_pack(c->stream, type,
                                                           (char *)to + (size_t)at * element,
                                                           v->dtype, raw, out, in, taps));
    ks_cuda_unwind(&c->ops, mark);
    return good;
}

/* A weight without parameters yet; data of so many bytes, and biases where asked for. */
static ks_weight *new_weight(ks_cuda *c, size_t bytes, int64_t bias, ks_error *err)
{
    ks_weight *w = calloc(1, sizeof *w);
    if (!w) {
        ks_error_set(err, "no memory for a parameter");
        return NULL;
    }
    w->data = ks_cuda_keep(&c->ops, bytes, err);
    if (w->data && bias)
        w->bias = ks_cuda_keep(&c->ops, (size_t)bias * sizeof(float), err);
    if (w->bias)
        w->bias_typed = ks_cuda_keep(&c->ops, (size_t)bias * ks_cuda_element(c), err);
    if (w->data && (!bias || w->bias_typed))
        return w;
    ks_cuda_weight_free(&c->ops, w);
    return NULL;
}

/* The weight, or NULL and the failure that came in between. */
static ks_weight *finished(ks_cuda *c, ks_weight *w, ks_error *err)
{
    if (!c->failed)
        return w;
    ks_cuda_weight_free(&c->ops, w);
    ks_cuda_sync(&c->ops, err);
    return NULL;
}

/* Whether the own product makes the layer. */
static bool own_product(const ks_cuda *c, const ks_weight *w, ks_weight_use use)
{
    const bool conv = use == KS_USE_CONV || use == KS_USE_UPSAMPLE;
    return conv ? ks_cuda_gemm_fits_conv(c->type, w->kh, w->kw, w->in, w->out)
                : w->kh * w->kw == 1 && ks_cuda_gemm_fits(c->type, w->in, w->out);
}

/* Makes the phases of an upsampling convolution from its plain weight. */
static void pack_phases(ks_cuda *c, ks_weight *w, const void *plain)
{
    ks_error err = KS_ERROR_NONE;
    const size_t bytes = (size_t)w->out * (size_t)w->in * 16 * ks_cuda_element(c);
    void *sums = ks_cuda_take(c, bytes);
    w->phases = sums ? ks_cuda_keep(&c->ops, bytes, &err) : NULL;
    if (sums && !w->phases)
        ks_cuda_fail(c, "%s", err.text);
    if (w->phases && KS_CUDA_CALL(c, ks_cuda_gemm_sum_phases(c->stream, c->type, sums, plain, w->out,
                                                             w->in)))
        KS_CUDA_CALL(c, ks_cuda_gemm_pack(c->stream, w->phases, sums, 4 * w->out, 4 * w->in, false));
}

/* Puts a layer's outputs in the order of the own product, where that makes the layer. */
static void pack_outputs(ks_cuda *c, ks_weight *w, ks_weight_use use)
{
    if (c->failed || !own_product(c, w, use))
        return;
    size_t mark = ks_cuda_mark(&c->ops);
    const int terms = w->in * w->kh * w->kw;
    size_t bytes = (size_t)w->out * (size_t)terms * ks_cuda_element(c);
    void *plain = ks_cuda_take(c, bytes);
    w->gated = use == KS_USE_GEGLU;
    w->packed = plain &&
                KS_CUDA_CALL(c, cudaMemcpyAsync(plain, w->data, bytes, cudaMemcpyDeviceToDevice,
                                                c->stream)) &&
                KS_CUDA_CALL(c, ks_cuda_gemm_pack(c->stream, w->data, plain, w->out, terms,
                                                  w->gated));
    if (w->packed && use == KS_USE_UPSAMPLE)
        pack_phases(c, w, plain);
    ks_cuda_unwind(&c->ops, mark);
}

ks_weight *ks_cuda_weight(ks_ops *ops, ks_weight_use use, int parts, const ks_view *view,
                          const ks_view *bias, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    int64_t out = ks_parameter_outputs(parts, view, bias, err);
    if (out < 0)
        return NULL;
    int64_t kh = view->rank == 4 ? view->shape[2] : 1, kw = view->rank == 4 ? view->shape[3] : 1;
    int64_t in = view->shape[1], terms = in * kh * kw;
    if (terms > INT32_MAX) {
        ks_error_set(err, "a parameter of %lld terms", (long long)terms);
        return NULL;
    }
    ks_weight *w =
        new_weight(c, (size_t)(out * terms) * ks_cuda_element(c), bias ? out : 0, err);
    if (!w)
        return NULL;
    w->out = (int)out;
    w->in = (int)in;
    w->kh = (int)kh;
    w->kw = (int)kw;
    int64_t at = 0;
    for (int i = 0; i < parts; at += view[i++].shape[0]) {
        pack(c, c->type, w->data, at * terms, &view[i], view[i].shape[0], in, kh * kw);
        if (bias && pack(c, KS_F32, w->bias, at, &bias[i], view[i].shape[0], 1, 1))
            pack(c, c->type, w->bias_typed, at, &bias[i], view[i].shape[0], 1, 1);
    }
    pack_outputs(c, w, use);
    return finished(c, w, err);
}

ks_weight *ks_cuda_norm_weight(ks_ops *ops, const ks_view *gamma, const ks_view *beta,
                               ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    int64_t channels = gamma->rank == 1 ? gamma->shape[0] : 0;
    if (ks_parameter_check_vector(gamma, channels, "norm's scale", err) < 0 ||
        ks_parameter_check_vector(beta, channels, "norm's shift", err) < 0)
        return NULL;
    ks_weight *w = new_weight(c, (size_t)channels * sizeof(float), channels, err);
    if (!w)
        return NULL;
    w->out = w->in = (int)channels;
    if (pack(c, KS_F32, w->data, 0, gamma, channels, 1, 1))
        pack(c, KS_F32, w->bias, 0, beta, channels, 1, 1);
    return finished(c, w, err);
}

bool ks_cuda_absorb_norm(ks_ops *ops, ks_weight *w, const ks_weight *norm, float eps)
{
    ks_cuda *c = ks_cuda_of(ops);
    ks_error err;
    if (c->failed || !w->packed || w->sums || w->kh * w->kw != 1 || norm->out != w->in)
        return false;
    if (!w->bias)
        w->bias = ks_cuda_keep(ops, (size_t)w->out * sizeof(float), &err);
    w->sums = w->bias ? ks_cuda_keep(ops, (size_t)w->out * sizeof(float), &err) : NULL;
    if (!w->sums)
        return false;
    w->eps = eps;
    return KS_CUDA_CALL(c, ks_cuda_gemm_fold(c->stream, c->type, w->data, w->bias, w->sums,
                                             norm->data, norm->bias, w->out, w->in, w->gated));
}

ks_weight *ks_cuda_table(ks_ops *ops, const ks_view *table, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (table->rank != 2 || table->shape[0] > INT32_MAX || table->shape[1] > INT32_MAX) {
        ks_error_set(err, "a table of rank %d: 2 is needed", table->rank);
        return NULL;
    }
    if (ks_parameter_check_type(table, err) < 0)
        return NULL;
    size_t count = (size_t)table->shape[0] * (size_t)table->shape[1];
    ks_weight *w = new_weight(c, count * ks_cuda_element(c), 0, err);
    if (!w)
        return NULL;
    w->out = (int)table->shape[0];
    w->in = (int)table->shape[1];
    pack(c, c->type, w->data, 0, table, table->shape[0], table->shape[1], 1);
    return finished(c, w, err);
}

void ks_cuda_weight_free(ks_ops *ops, ks_weight *w)
{
    if (!w)
        return;
    ks_cuda_graphs_free(ks_cuda_of(ops));
    ks_cuda_drop(ops, w->data);
    ks_cuda_drop(ops, w->phases);
    ks_cuda_drop(ops, w->bias);
    ks_cuda_drop(ops, w->bias_typed);
    ks_cuda_drop(ops, w->sums);
    free(w);
}
