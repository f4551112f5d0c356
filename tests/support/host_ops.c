#include "host_ops.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A download whose bytes have not come yet. */
typedef struct host_arrival {
    void *host, *bytes;
    size_t size;
    uint64_t fence; /* the first one behind it */
    struct host_arrival *next;
} host_arrival;

typedef struct host_ops {
    ks_ops ops;
    int live, allocs, limit, lincomb_calls, noise_calls;
    bool late;
    uint64_t fences;
    host_arrival *first, **last;
    int launches, fail_at;
    bool failed;
} host_ops;

/* Whether the next operation runs: one fails as a launch on a GPU does, and those after it do nothing until that is told. */
static bool runs(ks_ops *ops)
{
    host_ops *h = ops->self;
    if (!h->failed && ++h->launches == h->fail_at)
        h->failed = true;
    return !h->failed;
}

static void *alloc(ks_ops *ops, size_t bytes, ks_error *err)
{
    host_ops *h = ops->self;
    if (h->limit >= 0 && h->allocs >= h->limit) {
        ks_error_set(err, "no device memory for %zu bytes", bytes);
        return NULL;
    }
    h->allocs++;
    h->live++;
    return calloc(1, bytes ? bytes : 1);
}

static void release(ks_ops *ops, void *memory)
{
    if (memory)
        ((host_ops *)ops->self)->live--;
    free(memory);
}

static void upload(ks_ops *ops, void *device, const void *host, size_t bytes)
{
    if (runs(ops))
        memcpy(device, host, bytes);
}

/* Bytes for the host: at once, or when a later fence is waited for; until then its memory is spoilt. */
static void arrive(host_ops *h, void *host, const void *from, size_t size)
{
    if (!h->late) {
        memcpy(host, from, size);
        return;
    }
    host_arrival *a = malloc(sizeof *a);
    void *bytes = malloc(size);
    if (!a || !bytes)
        abort();
    *a = (host_arrival){.host = host, .bytes = bytes, .size = size, .fence = h->fences};
    memcpy(bytes, from, size);
    memset(host, 0xa5, size);
    *h->last = a;
    h->last = &a->next;
}

static void download(ks_ops *ops, void *host, const void *device, size_t bytes)
{
    if (runs(ops))
        arrive(ops->self, host, device, bytes);
}

/* Ends the way of the downloads before a fence; deliver: they come. */
static void settle(host_ops *h, uint64_t fence, bool deliver)
{
    while (h->first && h->first->fence <= fence) {
        host_arrival *a = h->first;
        if (deliver)
            memcpy(a->host, a->bytes, a->size);
        h->first = a->next;
        free(a->bytes);
        free(a);
    }
    if (!h->first)
        h->last = &h->first;
}

static int wait(ks_ops *ops, uint64_t fence, ks_error *err)
{
    host_ops *h = ops->self;
    bool failed = h->failed;
    settle(h, failed ? UINT64_MAX : fence, !failed);
    h->failed = false;
    return failed ? ks_error_set(err, "operation %d fails", h->fail_at) : 0;
}

static int sync(ks_ops *ops, ks_error *err)
{
    return wait(ops, UINT64_MAX, err);
}

static uint64_t fence(ks_ops *ops)
{
    return ((host_ops *)ops->self)->fences++;
}

static void lincomb(ks_ops *ops, const ks_lincomb_op *op, int count)
{
    if (!runs(ops))
        return;
    ((host_ops *)ops->self)->lincomb_calls++;
    for (int k = 0; k < count; k++)
        for (int64_t i = 0; i < op[k].n; i++) {
            double sum = 0;
            for (int t = 0; t < op[k].terms; t++)
                sum += op[k].coef[t] * (double)op[k].in[t][i];
            op[k].out[i] = (float)sum;
        }
}

/* The last one first, for their order is not promised. */
static void noise(ks_ops *ops, const ks_noise_op *op, int count)
{
    if (!runs(ops))
        return;
    ((host_ops *)ops->self)->noise_calls++;
    for (int k = count - 1; k >= 0; k--)
        host_noise_op(&op[k]);
}

static void crop(ks_ops *ops, float *out, const float *x, int channels, int height, int width,
                 ks_window at)
{
    if (!runs(ops))
        return;
    for (int c = 0; c < channels; c++)
        for (int i = 0; i < at.h; i++)
            for (int j = 0; j < at.w; j++)
                out[(c * at.h + i) * at.w + j] = x[(c * height + at.y + i) * width + at.x + j];
}

static void blend(ks_ops *ops, const ks_blend_op *op)
{
    if (!runs(ops))
        return;
    for (int i = 0; i < op->channels * op->height * op->width; i++) {
        int c = i / (op->height * op->width), y = i / op->width % op->height, x = i % op->width;
        double sum = 0, total = 1e-37;
        for (int k = 0; k < op->parts; k++) {
            const ks_blend_part *p = &op->part[k];
            int line = y - p->at.y, cell = x - p->at.x;
            if (line < 0 || line >= p->at.h || cell < 0 || cell >= p->at.w)
                continue;
            double weight = p->scale * (p->map ? (double)p->map[line * p->at.w + cell] : 1);
            double in = (double)p->in[(c * p->at.h + line) * p->at.w + cell];
            sum += weight * (op->x_coef * (double)op->x[i] + op->in_coef * in);
            total += weight;
        }
        op->out[i] = (float)(sum / total);
    }
}

static void inpaint(ks_ops *ops, const ks_inpaint_op *op)
{
    if (!runs(ops))
        return;
    for (int64_t i = 0; i < op->channels * op->cells; i++) {
        double m = (double)op->mask[i % op->cells], kept = 0;
        for (int t = 0; t < op->terms; t++)
            kept += op->coef[t] * (double)op->in[t][i];
        op->out[i] = (float)(m * (double)op->x[i] + (1 - m) * kept);
    }
}

static void error_norm(ks_ops *ops, double *out, const float *a, const float *b, const float *c,
                       int64_t n, double atol, double rtol)
{
    if (!runs(ops))
        return;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double size = fmax(fabs((double)b[i]), fabs((double)c[i])), delta = fmax(atol, rtol * size);
        sum += (double)a[i] / delta * ((double)a[i] / delta);
    }
    sum /= (double)n;
    arrive(ops->self, out, &sum, sizeof sum);
}

static void all_finite(ks_ops *ops, int *out, const float *a, int64_t n)
{
    if (!runs(ops))
        return;
    int finite = 1;
    for (int64_t i = 0; i < n; i++)
        finite &= isfinite(a[i]) != 0;
    arrive(ops->self, out, &finite, sizeof finite);
}

static void free_ops(ks_ops *ops)
{
    settle(ops->self, UINT64_MAX, false);
    free(ops->self);
}

ks_ops *host_ops_new(void)
{
    host_ops *h = calloc(1, sizeof *h);
    if (!h)
        abort();
    h->limit = -1;
    h->last = &h->first;
    h->ops = (ks_ops){.name = "host",
                      .precision = "fp32",
                      .threads = 1,
                      .self = h,
                      .alloc = alloc,
                      .release = release,
                      .upload = upload,
                      .download = download,
                      .sync = sync,
                      .lincomb = lincomb,
                      .crop = crop,
                      .blend = blend,
                      .inpaint = inpaint,
                      .error_norm = error_norm,
                      .all_finite = all_finite,
                      .free = free_ops};
    return &h->ops;
}

int host_ops_live(const ks_ops *ops)
{
    return ((const host_ops *)ops->self)->live;
}

int host_ops_allocs(const ks_ops *ops)
{
    return ((const host_ops *)ops->self)->allocs;
}

int host_ops_lincomb_calls(const ks_ops *ops)
{
    return ((const host_ops *)ops->self)->lincomb_calls;
}

void host_ops_draw_noise(ks_ops *ops)
{
    ops->noise = noise;
}

int host_ops_noise_calls(const ks_ops *ops)
{
    return ((const host_ops *)ops->self)->noise_calls;
}

void host_ops_fail_after(ks_ops *ops, int allocs)
{
    ((host_ops *)ops->self)->limit = allocs;
}

void host_ops_be_late(ks_ops *ops)
{
    ((host_ops *)ops->self)->late = true;
    ops->fence = fence;
    ops->wait = wait;
}

void host_ops_fail_at(ks_ops *ops, int launch)
{
    ((host_ops *)ops->self)->fail_at = launch;
}

int host_ops_launches(const ks_ops *ops)
{
    return ((const host_ops *)ops->self)->launches;
}
