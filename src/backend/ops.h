/* The one way from the models and the lane engine to hardware.
 *
 * A ks_ops is one device with its memory, its stream of work and its operations. Calls queue work
 * in order; results are there for the host after ks_ops.sync. Operations return nothing: the first
 * failure (no memory, a launch that failed) is kept, turns later operations into no-ops, and is
 * handed out by sync. A CPU backend may run everything at once.
 *
 * Activations are NHWC in the backend's compute type; text is [rows, tokens, 1, channels]. Latents
 * and sampler state are plain float32 device arrays in NCHW order. Every operation treats its rows
 * (n) independently and in a fixed order of summation: a row's bits depend on neither its place nor
 * its neighbours, nor on the number of threads.
 *
 * y never overlaps an input unless the comment allows it. */
#ifndef KS_BACKEND_OPS_H
#define KS_BACKEND_OPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "backend/group.h"
#include "backend/noise.h"
#include "base/error.h"

typedef enum ks_dtype { KS_F32, KS_F16, KS_BF16, KS_F64, KS_I32, KS_I64, KS_U8 } ks_dtype;

/* A tensor in host memory, as a file holds it: row-major, little-endian, possibly unaligned. */
typedef struct ks_view {
    const void *data;
    ks_dtype dtype;
    int rank; /* 0..8 */
    int64_t shape[8];
} ks_view;

/* Activation: element (i, y, x, k) is data[((i*h + y)*w + x)*stride + k] in the compute type.
 * stride >= c: a slice of wider pixels is a view with the wider stride. data == NULL: absent. */
typedef struct ks_act {
    void *data;
    int n, h, w, c;
    int64_t stride;
} ks_act;

typedef struct ks_ops ks_ops;
typedef struct ks_weight ks_weight; /* a parameter tensor in the backend's own form */

/* Which operation a weight is made for: a backend may keep it in an order of its own. */
typedef enum ks_weight_use {
    KS_USE_CONV,
    KS_USE_UPSAMPLE, /* a convolution that upsamples x first */
    KS_USE_LINEAR,
    KS_USE_GEGLU
} ks_weight_use;

typedef enum ks_activation {
    KS_ACT_NONE,
    KS_ACT_SILU,
    KS_ACT_GELU,
    KS_ACT_QUICK_GELU
} ks_activation;

typedef struct ks_conv {
    int stride;      /* 1 or 2 */
    int pad;         /* zeros on every side: 1 for 3x3, 0 for 1x1 */
    bool upsample;   /* nearest 2x upsampling of x first, less a last line or column if y says so */
    ks_act row_bias; /* [n, 1, 1, c_out] added to every pixel (the time embedding), or absent */
    ks_act residual; /* same shape as y, added at the end, may be y itself; or absent */
} ks_conv;

typedef struct ks_attention {
    int heads;             /* channels of q, k, v, y are heads * width */
    bool causal;           /* token i sees tokens 0..i */
    const int32_t *kv_row; /* device [n]: which row of k and v row i of q looks at; NULL: its own */
    const int32_t *kv_len; /* device [k.n]: tokens that row of k and v has (<= k.h); NULL: all */
} ks_attention;

/* Kinds of work whose time on the device is counted. */
typedef enum ks_clock { KS_CLOCK_NETWORK, KS_CLOCK_DECODE, KS_CLOCKS } ks_clock;

/* One term list of a linear combination: out[i] = sum over t of coef[t] * in[t][i], 0 <= i < n,
 * summed in term order in double (CPU) and rounded once. An input may be out itself. terms == 0
 * gives zeros. */
enum { KS_LINCOMB_TERMS = 12 };
typedef struct ks_lincomb_op {
    float *out;
    int64_t n;
    int terms;
    double coef[KS_LINCOMB_TERMS];
    const float *in[KS_LINCOMB_TERMS];
} ks_lincomb_op;

/* A window of a latent [channels, height, width]: lines y to y + h - 1, cells x to x + w - 1. */
typedef struct ks_window {
    int y, x, h, w;
} ks_window;

/* What one network output has to say about a window: weight scale * map, the same for every
 * channel. */
typedef struct ks_blend_part {
    ks_window at;     /* within the latent */
    const float *in;  /* [channels, h, w] */
    const float *map; /* [h, w], or NULL for ones */
    double scale;
} ks_blend_part;

/* The mean of estimates that hold in windows: out[c, p] = sum_k w_k[p] (x_coef x[c, p] + in_coef
 * in_k[c, p]) / (1e-37 + sum_k w_k[p]) over the parts whose window holds cell p, summed in their
 * order in double (CPU) and rounded once; 0 where no part is. out may be x, and is no part's in. */
typedef struct ks_blend_op {
    float *out;
    const float *x;
    int channels, height, width;
    double x_coef, in_coef;
    int parts;
    const ks_blend_part *part; /* host, read during the call only */
} ks_blend_op;

/* out[c, i] = mask[i] x[c, i] + (1 - mask[i]) sum_t coef[t] in[t][c, i], 0 <= i < cells, in double
 * (CPU) and rounded once. out may be x or an in. terms == 0: the sum is 0. */
enum { KS_INPAINT_TERMS = 2 };
typedef struct ks_inpaint_op {
    float *out;
    const float *x, *mask;
    int channels;
    int64_t cells;
    int terms;
    double coef[KS_INPAINT_TERMS];
    const float *in[KS_INPAINT_TERMS];
} ks_inpaint_op;

/* One row of a network call; the engine fills it, the model's UNet consumes it (device
 * pointers). All rows of a call have the same height and width. */
typedef struct ks_net_row {
    const float *x;             /* [C, H, W] the lane's latent, unscaled */
    float scale;                /* the network sees x * scale */
    int timestep;               /* 0..999 */
    const struct ks_cond *cond; /* the model's prepared conditioning */
    float *out;                 /* [C, H, W] the network's raw output (eps or v) */
    int height, width;          /* H, W; 0, 0: as the model was planned */
} ks_net_row;

struct ks_ops {
    const char *name;  /* "cpu", "cuda" */
    char device[128];  /* the device in words, for the output file */
    char precision[8]; /* compute type: "fp32", "fp16", "bf16" */
    int threads;       /* CPU threads it uses (cpu only) */
    bool slices;       /* every operation reads and writes slices of wider pixels as fast as dense ones */
    bool fault;        /* memory was refused or a failure handed out: what was queued is lost, other devices may do better */
    void *self;

    /* --- memory --- */
    /* Device memory, zeroed; NULL and err. */
    void *(*alloc)(ks_ops *ops, size_t bytes, ks_error *err);
    void (*release)(ks_ops *ops, void *memory);
    size_t (*memory_free)(ks_ops *ops); /* bytes that could still be allocated */
    /* host may change after upload returns; it is there after sync in a download. */
    void (*upload)(ks_ops *ops, void *device, const void *host, size_t bytes);
    void (*download)(ks_ops *ops, void *host, const void *device, size_t bytes);
    /* Waits for all work; hands out and clears a kept failure. */
    int (*sync)(ks_ops *ops, ks_error *err);

    /* --- waiting for a part of the work; NULL: the backend runs everything at once --- */
    /* A point in the queue. */
    uint64_t (*fence)(ks_ops *ops);
    /* Waits for the work queued before the fence, whose downloads are then there; hands out and clears a kept failure. */
    int (*wait)(ks_ops *ops, uint64_t fence, ks_error *err);

    /* --- the device's own time; NULL: the host's clock says the same --- */
    /* What is queued between the two counts as time of a kind; one stretch at a time. */
    void (*clock_begin)(ks_ops *ops, ks_clock kind);
    void (*clock_end)(ks_ops *ops);
    /* Seconds of the stretches that have ended by now; does not wait. count: how many those are. */
    double (*clock_seconds)(ks_ops *ops, ks_clock kind, int64_t *count);

    /* Scratch activations: a stack. act() takes from its top, unwind() gives back all since mark().
     * The same calls in the same order give the same addresses. */
    size_t (*mark)(ks_ops *ops);
    void (*unwind)(ks_ops *ops, size_t mark);
    ks_act (*act)(ks_ops *ops, int n, int h, int w, int c); /* stride c; data NULL: failed, kept */

    /* --- parameters --- */
    /* Linear [out, in] or convolution [out, in, kh, kw]; parts are joined along out (a fused q, k,
     * v), each with the same in. bias: NULL, or one view [out_i] for each part. The views are only
     * read during the call. No operation but use's own takes it. */
    ks_weight *(*weight)(ks_ops *ops, ks_weight_use use, int parts, const ks_view *w,
                         const ks_view *bias, ks_error *err);
    /* Scale and shift of a norm, [c] each. */
    ks_weight *(*norm_weight)(ks_ops *ops, const ks_view *gamma, const ks_view *beta,
                              ks_error *err);
    /* Makes w, a linear layer's or GEGLU's, take layer_norm(x) in the place of x from now on, with
     * the norm's scale and shift, which it does not keep. false: w stays as it is and the caller
     * normalises. NULL: the backend has no such form. */
    bool (*absorb_norm)(ks_ops *ops, ks_weight *w, const ks_weight *norm, float eps);
    /* A table [count, c] whose rows are looked up. */
    ks_weight *(*table)(ks_ops *ops, const ks_view *table, ks_error *err);
    void (*weight_free)(ks_ops *ops, ks_weight *w);

    /* --- network operations --- */
    /* y = conv(x) + bias + row_bias + residual. x [n,h,w,cin] -> y [n,h',w',cout]; bit-equal for
     * stride views. */
    void (*conv)(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how);
    /* y = activation(x w^T + bias) + residual, per pixel or token. residual: absent, or y's shape,
     * may be y itself. */
    void (*linear)(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, ks_activation activation,
                   ks_act residual);
    /* y = value * gelu(gate), (value, gate) = halves of x w^T + bias; w [2 * y.c, x.c]; gelu is the
     * exact (erf) one. */
    void (*geglu)(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w);
    /* Over each row's h * w * (c / groups); y may be x. */
    void (*group_norm)(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, int groups, float eps,
                       bool silu);
    /* Over each token's channels; y may be x. */
    void (*layer_norm)(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, float eps);
    /* softmax(q k^T / sqrt(width)) v for each head. q, y [n, tokens (h*w), c]; k, v [m, tokens,
     * c]. */
    void (*attention)(ks_ops *ops, ks_act y, ks_act q, ks_act k, ks_act v, const ks_attention *how);
    void (*concat)(ks_ops *ops, ks_act y, ks_act a, ks_act b); /* channels of a, then of b */
    void (*add)(ks_ops *ops, ks_act y, ks_act a, ks_act b);    /* same shapes; y may be a or b */
    void (*activate)(ks_ops *ops, ks_act y, ks_act x, ks_activation activation); /* y may be x */
    /* y [n,1,1,dim]: cosines, then sines, of t[i] * 10000^(-j / (dim/2)), j < dim/2 (Ho et al.
     * 2020). t: device [n]. */
    void (*timestep_embedding)(ks_ops *ops, ks_act y, const float *t);
    /* y [n, tokens, 1, c] = tokens[ids] + positions[token]; ids: device [n * tokens]. */
    void (*embedding)(ks_ops *ops, ks_act y, const int32_t *ids, const ks_weight *tokens,
                      const ks_weight *positions);

    /* --- between latents (float32, NCHW) and activations --- */
    /* y[i] = x[i] * scale[i]; x: device array of n device pointers to [C,H,W], scale: device
     * [n]. */
    void (*from_latents)(ks_ops *ops, ks_act y, const float *const *x, const float *scale);
    /* out: device array of n device pointers. */
    void (*to_latents)(ks_ops *ops, float *const *out, ks_act x);
    /* x, out: device [n,h,w,c] float32, dense. */
    void (*from_floats)(ks_ops *ops, ks_act y, const float *x);
    void (*to_floats)(ks_ops *ops, float *out, ks_act x);
    /* rgb: device [n,h,w,3] = round(clip((x + 1) / 2, 0, 1) * 255), half to even. */
    void (*to_rgb)(ks_ops *ops, uint8_t *rgb, ks_act x);

    /* --- lanes' arithmetic: float32 device arrays --- */
    void (*lincomb)(ks_ops *ops, const ks_lincomb_op *op, int count); /* in order if they depend */
    /* The draws of all ops, in whatever order: no op's arrays or state overlap another's. NULL: noise is made on the host. */
    void (*noise)(ks_ops *ops, const ks_noise_op *op, int count);
    /* out [channels, h, w] = that window of x [channels, height, width]. */
    void (*crop)(ks_ops *ops, float *out, const float *x, int channels, int height, int width,
                 ks_window at);
    void (*blend)(ks_ops *ops, const ks_blend_op *op);
    void (*inpaint)(ks_ops *ops, const ks_inpaint_op *op);
    /* out (host, there after sync): mean over i of
     * (a[i] / max(atol, rtol * max(|b[i]|, |c[i]|)))^2, in double: the error norm of adaptive
     * samplers, before its root. */
    void (*error_norm)(ks_ops *ops, double *out, const float *a, const float *b, const float *c,
                       int64_t n, double atol, double rtol);
    /* out (host, after sync): 1 when every value is finite, else 0. */
    void (*all_finite)(ks_ops *ops, int *out, const float *a, int64_t n);

    /* --- work that comes again --- */
    /* Queues work(arg). The first call with a key runs work and keeps what it queues; later ones
     * queue the same again without running it. So work must queue the same operations on the same
     * addresses each time, and neither upload nor download; the key must tell apart whatever would
     * change them. weight_free forgets all that is kept. NULL: the backend has no use for it. */
    int (*replay)(ks_ops *ops, uint64_t key, void (*work)(void *arg), void *arg, ks_error *err);

    /* --- one network on several devices --- */
    /* Takes part from now on in the three operations below, with the devices of the groups' other ranks: those that hold one
     * layer's parts (tensor), and all that work on one call (replica). Collective over both; the groups outlive ops. A rank
     * that fails later is a kept failure on the others, within the group's patience. */
    int (*join)(ks_ops *ops, ks_group *tensor, ks_group *replica, ks_error *err);
    /* y = the sum of every tensor rank's y. Each element is added in the order of the ranks, in float32, and rounded once,
     * so that all ranks have the same bits and a row's do not depend on its place. */
    void (*all_reduce)(ks_ops *ops, ks_act y);
    /* Device memory of the replica's rank 0 to the others. */
    void (*broadcast)(ks_ops *ops, void *device, size_t bytes);
    /* Every replica rank's `bytes`, which lie at device + rank * bytes, to all. */
    void (*gather)(ks_ops *ops, void *device, size_t bytes);

    void (*free)(ks_ops *ops);
};

/* The CPU: float32 over CBLAS. threads: 0 takes the CPUs this process may use. The reference that
 * other backends are compared with. NULL and err without memory. Free with ops->free(ops). */
ks_ops *ks_ops_cpu(int threads, ks_error *err);

/* An NVIDIA GPU of compute capability 8.0 or higher. precision: "fp32" (TF32 off), "fp16" or
 * "bf16". NULL and err without such a GPU, its driver, memory, or the CUDA backend in this build.
 */
ks_ops *ks_ops_cuda(int device, const char *precision, ks_error *err);
enum { KS_GPU_ID = 16 };
/* What tells the GPU from all others, whoever sees it by whatever number. */
void ks_cuda_device_id(int device, uint8_t id[KS_GPU_ID]);
/* GPUs that this process sees; 0 without a driver or without the CUDA backend. */
int ks_cuda_device_count(void);

#endif
