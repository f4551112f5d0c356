/* Parameters: from the file's views to float32 in the layout that the products read. */
#include <stdlib.h>
#include <string.h>

#include "backend/cpu/cpu.h"
#include "backend/parameter.h"

enum { LINE = 16 /* floats of a cache line */ };

/* --- conversion --- */

static void from_f32(float *out, const unsigned char *in, int64_t n)
{
    memcpy(out, in, (size_t)n * sizeof *out);
}

static void from_f64(float *out, const unsigned char *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        double value;
        memcpy(&value, in + 8 * i, sizeof value);
        out[i] = (float)value;
    }
}

/* The exponent and fraction bits, put in float32's places, are the value times 2^-112; a NaN or
 * infinity needs the largest exponent besides. */
static void from_f16(float *out, const unsigned char *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, in + 2 * i, sizeof half);
        uint32_t bits = (uint32_t)(half & 0x7fff) << 13, sign = (uint32_t)(half & 0x8000) << 16;
        float value;
        memcpy(&value, &bits, sizeof value);
        value *= 0x1p112f;
        uint32_t scaled;
        memcpy(&scaled, &value, sizeof scaled);
        scaled |= sign | (bits >= 0x0f800000 ? 0x7f800000 : 0);
        memcpy(&out[i], &scaled, sizeof scaled);
    }
}

static void from_bf16(float *out, const unsigned char *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        uint16_t high;
        memcpy(&high, in + 2 * i, sizeof high);
        uint32_t bits = (uint32_t)high << 16;
        memcpy(&out[i], &bits, sizeof bits);
    }
}

typedef struct conversion {
    void (*convert)(float *out, const unsigned char *in, int64_t n);
    int bytes;
} conversion;

static const conversion conversions[] = {
    [KS_F32] = {from_f32, 4},
    [KS_F16] = {from_f16, 2},
    [KS_BF16] = {from_bf16, 2},
    [KS_F64] = {from_f64, 8},
    [KS_I32] = {0},
    [KS_I64] = {0},
    [KS_U8] = {0},
};

/* Elements [first, first + n) of a view. */
static void convert(float *out, const ks_view *view, int64_t first, int64_t n)
{
    const conversion *c = &conversions[view->dtype];
    c->convert(out, (const unsigned char *)view->data + first * c->bytes, n);
}

/* --- packing --- */

/* data and, where asked for, bias, both zeros. */
static ks_weight *new_weight(int64_t rows, int64_t ld, bool bias, ks_error *err)
{
    ks_weight *w = calloc(1, sizeof *w);
    size_t bytes = (size_t)rows * (size_t)ld * sizeof(float);
    if (w)
        w->data = ks_cpu_memory(bytes);
    if (w && bias)
        w->bias = ks_cpu_memory((size_t)ld * sizeof(float));
    if (!w || !w->data || (bias && !w->bias)) {
        ks_error_set(err, "no memory for a parameter of %.1f MiB", (double)bytes / (1 << 20));
        ks_cpu_weight_free(NULL, w);
        return NULL;
    }
    memset(w->data, 0, bytes);
    if (bias)
        memset(w->bias, 0, (size_t)ld * sizeof(float));
    w->ld = ld;
    return w;
}

typedef struct packing {
    ks_cpu *cpu;
    ks_weight *w;
    const ks_view *view;
    int64_t column; /* of the part's first output */
} packing;

/* LINE outputs of a part, from [out][in][tap] to [tap][in][out]. */
static void pack_outputs(void *arg, int index, int worker)
{
    const packing *p = arg;
    ks_weight *w = p->w;
    const int64_t taps = (int64_t)w->kh * w->kw, terms = taps * w->in,
                  first = (int64_t)index * LINE;
    const int64_t outs = ks_cpu_min(LINE, p->view->shape[0] - first);
    float *rows = ks_cpu_worker_scratch(p->cpu, worker);
    convert(rows, p->view, first * terms, outs * terms);
    float *to = w->data + p->column + first;
    for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t i = 0; i < w->in; i++, to += w->ld)
            for (int64_t o = 0; o < outs; o++)
                to[o] = rows[o * terms + i * taps + tap];
}

/* A part and its bias, from column `column` on. */
static void pack_part(ks_cpu *cpu, ks_weight *w, const ks_view *view, const ks_view *bias,
                      int64_t column)
{
    packing p = {cpu, w, view, column};
    ks_threads_run(cpu->pool, (int)((view->shape[0] + LINE - 1) / LINE), pack_outputs, &p);
    if (bias)
        convert(w->bias + column, bias, 0, view->shape[0]);
}

ks_weight *ks_cpu_weight(ks_ops *ops, ks_weight_use use, int parts, const ks_view *view,
                         const ks_view *bias, ks_error *err)
{
    (void)use; /* all lie alike */
    ks_cpu *cpu = ks_cpu_of(ops);
    int64_t out = ks_parameter_outputs(parts, view, bias, err);
    if (out < 0)
        return NULL;
    int64_t kh = view->rank == 4 ? view->shape[2] : 1, kw = view->rank == 4 ? view->shape[3] : 1;
    int64_t terms = view->shape[1] * kh * kw;
    if (terms > INT32_MAX || ks_cpu_need_scratch(cpu, LINE * terms) < 0) {
        ks_error_set(err, "no memory to convert a parameter of %lld terms", (long long)terms);
        return NULL;
    }
    ks_weight *w = new_weight(terms, (out + LINE - 1) / LINE * LINE, bias, err);
    if (!w)
        return NULL;
    w->out = (int)out;
    w->in = (int)view->shape[1];
    w->kh = (int)kh;
    w->kw = (int)kw;
    for (int64_t i = 0, column = 0; i < parts; column += view[i++].shape[0])
        pack_part(cpu, w, &view[i], bias ? &bias[i] : NULL, column);
    return w;
}

ks_weight *ks_cpu_norm_weight(ks_ops *ops, const ks_view *gamma, const ks_view *beta, ks_error *err)
{
    (void)ops;
    int64_t c = gamma->rank == 1 ? gamma->shape[0] : 0;
    if (ks_parameter_check_vector(gamma, c, "norm's scale", err) < 0 ||
        ks_parameter_check_vector(beta, c, "norm's shift", err) < 0)
        return NULL;
    ks_weight *w = new_weight(1, c, true, err);
    if (!w)
        return NULL;
    w->out = w->in = (int)c;
    convert(w->data, gamma, 0, c);
    convert(w->bias, beta, 0, c);
    return w;
}

ks_weight *ks_cpu_table(ks_ops *ops, const ks_view *table, ks_error *err)
{
    (void)ops;
    if (table->rank != 2 || table->shape[0] > INT32_MAX || table->shape[1] > INT32_MAX) {
        ks_error_set(err, "a table of rank %d: 2 is needed", table->rank);
        return NULL;
    }
    if (ks_parameter_check_type(table, err) < 0)
        return NULL;
    ks_weight *w = new_weight(table->shape[0], table->shape[1], false, err);
    if (!w)
        return NULL;
    w->out = (int)table->shape[0];
    w->in = (int)table->shape[1];
    convert(w->data, table, 0, table->shape[0] * table->shape[1]);
    return w;
}

void ks_cpu_weight_free(ks_ops *ops, ks_weight *w)
{
    (void)ops;
    if (!w)
        return;
    free(w->data);
    free(w->bias);
    free(w);
}
