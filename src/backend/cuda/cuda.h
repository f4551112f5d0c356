/* The CUDA backend's own state, shared by the files of this folder.
 *
 * All work goes to one stream, in order. A row's bits depend on neither its place nor its
 * neighbours: own kernels sum in an order that shapes alone decide, and a library's algorithm is
 * taken for a shape only after it gave permuted rows the same bits (trial.c). No algorithm is ever
 * chosen by its time. */
#ifndef KS_BACKEND_CUDA_CUDA_H
#define KS_BACKEND_CUDA_CUDA_H

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>

#include "backend/ops.h"

/* A parameter. Linear or convolution: data [out][kh][kw][in] in the compute type, bias [out] in
 * float32, and in the compute type for the libraries' epilogues; or no bias. Norm: float32 data
 * gamma and bias beta, [out] each. Table: data, `out` rows of `in`, in the compute type.
 * packed: data lies as ks_cuda_gemm_pack leaves it, for kernels/gemm.h alone, as the layer's shape and
 * the device decide. sums: for a
 * weight that has absorbed a layer norm, what ks_cuda_gemm_fold gives, [out] in float32. */
struct ks_weight {
    bool packed, gated; /* gated: GEGLU's */
    float eps;          /* of the absorbed norm */
    float *sums;        /* of the absorbed norm, else NULL */
    void *data;
    void *phases; /* of a packed KS_USE_UPSAMPLE: ks_cuda_gemm_sum_phases, packed; else NULL */
    float *bias;
    void *bias_typed;
    int out, in, kh, kw;
};

typedef struct ks_cuda_chunk {
    char *data;
    size_t start, size; /* start: the sizes of the chunks before it */
} ks_cuda_chunk;

/* Memory of parameters: `used` bytes given away, of which `live` pieces have not come back. */
typedef struct ks_cuda_store {
    char *data;
    size_t size, used;
    int live;
} ks_cuda_store;

/* Pinned memory that uploads pass through, in segments: one is used again when its copies are
 * done. */
enum { KS_CUDA_SEGMENTS = 8 };
typedef struct ks_cuda_uploads {
    char *memory;
    cudaEvent_t done[KS_CUDA_SEGMENTS];
    bool waiting[KS_CUDA_SEGMENTS];
    int segment;
    size_t used; /* of that segment */
} ks_cuda_uploads;

/* Pinned memory where downloads wait for sync, which brings them to their place. */
typedef struct ks_cuda_arrival {
    void *host;
    size_t at, bytes;
    uint64_t fence; /* the first one behind it */
} ks_cuda_arrival;

typedef struct ks_cuda_downloads {
    char *memory;
    size_t used;
    ks_cuda_arrival *arrival; /* in the order of their fences */
    int arrivals, room;
} ks_cuda_downloads;

/* Points in the queue: number n has event n mod KS_CUDA_FENCES until so many more were made. */
enum { KS_CUDA_FENCES = 8 };
typedef struct ks_cuda_fences {
    cudaEvent_t event[KS_CUDA_FENCES];
    uint64_t made;
} ks_cuda_fences;

/* Stretches of work between two events, in a ring; see clock.c. */
enum { KS_CUDA_STRETCHES = 32 };
typedef struct ks_cuda_stretch {
    cudaEvent_t begin, end;
    ks_clock kind;
} ks_cuda_stretch;

typedef struct ks_cuda_clocks {
    ks_cuda_stretch stretch[KS_CUDA_STRETCHES];
    int first, pending;
    bool open; /* the newest has begun and not ended */
    double seconds[KS_CLOCKS];
    int64_t count[KS_CLOCKS];
} ks_cuda_clocks;

/* How a linear layer of a shape is computed; see linear.c. */
enum { KS_CUDA_LINEAR_KEY = 10, KS_CUDA_CONV_KEY = 20 };
typedef struct ks_cuda_linear_plan {
    int64_t key[KS_CUDA_LINEAR_KEY];
    bool library; /* else the own kernel */
    bool bias_fused;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t w, x, residual, y;
    cublasLtMatmulAlgo_t algorithm;
} ks_cuda_linear_plan;

/* How a convolution of a shape is computed; see conv.c. */
typedef enum ks_cuda_conv_engine {
    KS_CUDA_CONV_FUSED,   /* cuDNN with bias and residual */
    KS_CUDA_CONV_LIBRARY, /* cuDNN alone, then the rest */
    KS_CUDA_CONV_COLUMNS, /* patches gathered, then a linear layer */
    KS_CUDA_CONV_DIRECT,  /* the own kernel */
    KS_CUDA_CONV_ENGINES
} ks_cuda_conv_engine;

typedef struct ks_cuda_conv_plan {
    int64_t key[KS_CUDA_CONV_KEY];
    ks_cuda_conv_engine engine;
    bool described; /* the descriptors are there */
    cudnnTensorDescriptor_t x, y, bias;
    cudnnFilterDescriptor_t w;
    cudnnConvolutionDescriptor_t window;
    cudnnActivationDescriptor_t identity;
    size_t workspace;
} ks_cuda_conv_plan;

enum { KS_CUDA_GRAPHS = 16 };
typedef struct ks_cuda_graph {
    uint64_t key, used; /* used: the call that last did */
    cudaGraphExec_t graph;
} ks_cuda_graph;

/* The ranks that one network is shared with; see nccl.h. */
typedef struct ks_cuda_others ks_cuda_others;

typedef struct ks_cuda {
    ks_ops ops;
    int device;
    ks_dtype type;
    cudaStream_t stream;
    cublasLtHandle_t blas;
    cudnnHandle_t dnn;
    void *blas_workspace;
    char *small; /* device: what reductions and the descriptions of combinations need */

    ks_cuda_uploads up;
    ks_cuda_downloads down;
    ks_cuda_fences fences;
    ks_cuda_clocks clocks;

    ks_cuda_chunk *chunk; /* activations */
    int chunks, current;
    size_t used; /* bytes taken of chunk[current] */
    ks_cuda_store *store; /* parameters */
    int stores;

    char *noise; /* host: what the last draws were described by */
    size_t noise_bytes;

    ks_cuda_linear_plan **linear;
    ks_cuda_conv_plan **conv;
    int linears, convs;

    ks_cuda_graph graph[KS_CUDA_GRAPHS];
    uint64_t replays;
    bool capturing;

    ks_cuda_others *others; /* NULL before this rank has joined them */
    bool stuck; /* what is queued will never end: nothing is waited for or freed any more */

    bool failed;
    ks_error failure;
} ks_cuda;

static inline ks_cuda *ks_cuda_of(ks_ops *ops)
{
    return ops->self;
}

static inline size_t ks_cuda_element(const ks_cuda *c)
{
    return c->type == KS_F32 ? 4 : 2;
}

static inline int64_t ks_cuda_pixels(ks_act a)
{
    return (int64_t)a.h * a.w;
}

/* --- state.c: failures and memory --- */

/* Keeps the first failure. */
void ks_cuda_fail(ks_cuda *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Whether a call of CUDA, cuBLASLt or cuDNN went well; else its failure is kept. */
bool ks_cuda_good(ks_cuda *c, int status, const char *what);
bool ks_cuda_blas_good(ks_cuda *c, cublasStatus_t status, const char *what);
bool ks_cuda_dnn_good(ks_cuda *c, cudnnStatus_t status, const char *what);
#define KS_CUDA_CALL(c, call) ks_cuda_good(c, (int)(call), #call)
#define KS_CUDA_BLAS(c, call) ks_cuda_blas_good(c, call, #call)
#define KS_CUDA_DNN(c, call) ks_cuda_dnn_good(c, call, #call)

/* Whether an operation shall run: no failure is kept and its shapes fit; shapes that do not are a
 * failure. Makes the device the thread's current one. */
bool ks_cuda_runs(ks_cuda *c, bool fits, const char *operation, ks_act y, ks_act x);
bool ks_cuda_same_shape(ks_act a, ks_act b);

void *ks_cuda_alloc(ks_ops *ops, size_t bytes, ks_error *err);
void ks_cuda_release(ks_ops *ops, void *memory);
size_t ks_cuda_memory_free(ks_ops *ops);
size_t ks_cuda_mark(ks_ops *ops);
void ks_cuda_unwind(ks_ops *ops, size_t mark);
ks_act ks_cuda_act(ks_ops *ops, int n, int h, int w, int c);
/* Bytes from the top of the stack of activations; NULL and a kept failure without memory. */
void *ks_cuda_take(ks_cuda *c, size_t bytes);

/* --- transfer.c --- */

int ks_cuda_transfer_init(ks_cuda *c, ks_error *err);
void ks_cuda_transfer_free(ks_cuda *c);
void ks_cuda_upload(ks_ops *ops, void *device, const void *host, size_t bytes);
void ks_cuda_download(ks_ops *ops, void *host, const void *device, size_t bytes);
int ks_cuda_sync(ks_ops *ops, ks_error *err);
uint64_t ks_cuda_fence(ks_ops *ops);
int ks_cuda_wait(ks_ops *ops, uint64_t fence, ks_error *err);

/* --- clock.c --- */

int ks_cuda_clocks_init(ks_cuda *c, ks_error *err);
void ks_cuda_clocks_free(ks_cuda *c);
void ks_cuda_clock_begin(ks_ops *ops, ks_clock kind);
void ks_cuda_clock_end(ks_ops *ops);
double ks_cuda_clock_seconds(ks_ops *ops, ks_clock kind, int64_t *count);

/* --- store.c: memory of parameters --- */

/* As alloc and release; a part of something larger. */
void *ks_cuda_keep(ks_ops *ops, size_t bytes, ks_error *err);
void ks_cuda_drop(ks_ops *ops, void *memory);
void ks_cuda_stores_free(ks_cuda *c);

/* --- weight.c --- */

ks_weight *ks_cuda_weight(ks_ops *ops, ks_weight_use use, int parts, const ks_view *w,
                          const ks_view *bias, ks_error *err);
ks_weight *ks_cuda_norm_weight(ks_ops *ops, const ks_view *gamma, const ks_view *beta,
                               ks_error *err);
bool ks_cuda_absorb_norm(ks_ops *ops, ks_weight *w, const ks_weight *norm, float eps);
ks_weight *ks_cuda_table(ks_ops *ops, const ks_view *table, ks_error *err);
void ks_cuda_weight_free(ks_ops *ops, ks_weight *w);

/* --- trial.c --- */

/* One way to compute y from rows of x, row_bias and residual (each may be absent). false: it cannot
 * be done this way. */
typedef struct ks_cuda_trial {
    ks_act y, x, row_bias, residual; /* data only says: absent, y's own, or neither */
    bool (*run)(ks_cuda *c, const void *how, ks_act y, ks_act x, ks_act row_bias, ks_act residual);
    const void *how;
} ks_cuda_trial;

/* Whether it can be done and gives every one of random rows the same bits at whatever place. */
bool ks_cuda_keeps_rows(ks_cuda *c, const ks_cuda_trial *trial);

/* --- linear.c and conv.c --- */

void ks_cuda_linear(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, ks_activation activation,
                    ks_act residual);
void ks_cuda_geglu(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w);
/* y = x w^T + bias + residual with a weight that is not packed, read as [out][kh * kw * in]. false:
 * a failure is kept. */
bool ks_cuda_product(ks_cuda *c, ks_act y, ks_act x, const ks_weight *w, bool bias,
                     ks_act residual);
/* a where it lies on 16-byte boundaries, else dense scratch of its shape, for what the own product
 * reads and writes; and to = from unless they are the same. false: a failure is kept. */
ks_act ks_cuda_aligned(ks_cuda *c, ks_act a);
bool ks_cuda_copy(ks_cuda *c, ks_act to, ks_act from);
void ks_cuda_linear_plans_free(ks_cuda *c);

void ks_cuda_conv(ks_ops *ops, ks_act y, ks_act x, const ks_weight *w, const ks_conv *how);
/* The same by one engine, for measurements; w is not packed. false: that engine cannot do it. */
bool ks_cuda_conv_by(ks_ops *ops, ks_cuda_conv_engine engine, ks_act y, ks_act x,
                     const ks_weight *w, const ks_conv *how);
void ks_cuda_conv_plans_free(ks_cuda *c);

/* --- operations.c: the kernels behind ops.h --- */

void ks_cuda_operations(ks_ops *ops);
/* Bytes of ks_cuda.small. */
size_t ks_cuda_small_bytes(void);

/* --- noise.c --- */

void ks_cuda_noise(ks_ops *ops, const ks_noise_op *op, int count);

/* --- wait.c --- */

/* Waits for what was queued before the event, or for all (NULL). false: a failure is kept. */
bool ks_cuda_passed(ks_cuda *c, cudaEvent_t event);
/* Whether all that is queued ends well within so many seconds. */
bool ks_cuda_drains(ks_cuda *c, double seconds);
/* A moment between two looks at something; longer after the first hundreds of them. */
void ks_cuda_pause(int looks);

/* --- group.c and nccl.c, or group_absent.c --- */

int ks_cuda_join(ks_ops *ops, ks_group *tensor, ks_group *replica, ks_error *err);
void ks_cuda_all_reduce(ks_ops *ops, ks_act y);
/* The same in one way that there is, for tests and measurements: by shares of the elements, or for two ranks alone by NCCL's
 * own sum or through each other's memory. */
typedef enum ks_cuda_sum_way { KS_CUDA_BY_SHARES, KS_CUDA_BY_NCCL, KS_CUDA_BY_MEMORY, KS_CUDA_SUM_WAYS } ks_cuda_sum_way;
bool ks_cuda_can_sum_by(const ks_cuda *c, ks_cuda_sum_way way);
void ks_cuda_all_reduce_by(ks_ops *ops, ks_act y, ks_cuda_sum_way way);
void ks_cuda_broadcast(ks_ops *ops, void *device, size_t bytes);
void ks_cuda_gather(ks_ops *ops, void *device, size_t bytes);
/* Whether what is queued may wait for other ranks. */
bool ks_cuda_has_others(const ks_cuda *c);
/* Whether they are there, as far as can be told after so many seconds of waiting; if not, a failure is kept and they are given
 * up for good. */
bool ks_cuda_others_there(ks_cuda *c, double waited);
/* Takes leave of them, in ops->free. */
void ks_cuda_part(ks_cuda *c);

/* --- replay.c --- */

int ks_cuda_replay(ks_ops *ops, uint64_t key, void (*work)(void *arg), void *arg, ks_error *err);
void ks_cuda_graphs_free(ks_cuda *c);

#endif
