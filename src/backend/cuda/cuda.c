/* ks_ops_cuda: the device as a whole. */
#include "backend/cuda/cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/cuda/combine.h"
#include "kernels/gemm.h"
#include "kernels/parameters.h"

enum { LEAST_CAPABILITY = 8, BLAS_WORKSPACE = 64 << 20 };

int ks_cuda_device_count(void)
{
    int count = 0;
    if (cudaGetDeviceCount(&count) == cudaSuccess)
        return count;
    cudaGetLastError();
    return 0;
}

/* Its UUID. */
void ks_cuda_device_id(int device, uint8_t id[KS_GPU_ID])
{
    struct cudaDeviceProp properties;
    memset(id, 0, KS_GPU_ID);
    if (cudaGetDeviceProperties(&properties, device) == cudaSuccess)
        memcpy(id, properties.uuid.bytes, KS_GPU_ID);
    else
        memcpy(id, &device, sizeof device);
    cudaGetLastError();
}

static void cuda_free(ks_ops *ops)
{
    if (!ops)
        return;
    ks_cuda *c = ks_cuda_of(ops);
    cudaSetDevice(c->device);
    if (c->stream)
        ks_cuda_passed(c, NULL);
    ks_cuda_part(c);
    if (c->stuck)
        return; /* all this ends with the process */
    ks_cuda_graphs_free(c);
    ks_cuda_linear_plans_free(c);
    ks_cuda_conv_plans_free(c);
    for (int i = 0; i < c->chunks; i++)
        cudaFree(c->chunk[i].data);
    free(c->chunk);
    free(c->noise);
    ks_cuda_stores_free(c);
    cudaFree(c->blas_workspace);
    cudaFree(c->small);
    ks_cuda_transfer_free(c);
    ks_cuda_clocks_free(c);
    if (c->blas)
        cublasLtDestroy(c->blas);
    if (c->dnn)
        cudnnDestroy(c->dnn);
    if (c->stream)
        cudaStreamDestroy(c->stream);
    free(c);
}

static const ks_ops operations = {
    .name = "cuda",
    .alloc = ks_cuda_alloc,
    .release = ks_cuda_release,
    .memory_free = ks_cuda_memory_free,
    .upload = ks_cuda_upload,
    .download = ks_cuda_download,
    .sync = ks_cuda_sync,
    .fence = ks_cuda_fence,
    .wait = ks_cuda_wait,
    .clock_begin = ks_cuda_clock_begin,
    .clock_end = ks_cuda_clock_end,
    .clock_seconds = ks_cuda_clock_seconds,
    .mark = ks_cuda_mark,
    .unwind = ks_cuda_unwind,
    .act = ks_cuda_act,
    .weight = ks_cuda_weight,
    .norm_weight = ks_cuda_norm_weight,
    .absorb_norm = ks_cuda_absorb_norm,
    .table = ks_cuda_table,
    .weight_free = ks_cuda_weight_free,
    .conv = ks_cuda_conv,
    .linear = ks_cuda_linear,
    .geglu = ks_cuda_geglu,
    .noise = ks_cuda_noise,
    .replay = ks_cuda_replay,
    .join = ks_cuda_join,
    .all_reduce = ks_cuda_all_reduce,
    .broadcast = ks_cuda_broadcast,
    .gather = ks_cuda_gather,
    .free = cuda_free,
};

static int choose_type(ks_cuda *c, const char *precision, ks_error *err)
{
    static const struct {
        const char *name;
        ks_dtype type;
    } types[] = {{"fp32", KS_F32}, {"fp16", KS_F16}, {"bf16", KS_BF16}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(precision, types[i].name) == 0) {
            c->type = types[i].type;
            snprintf(c->ops.precision, sizeof c->ops.precision, "%s", precision);
            return 0;
        }
    return ks_error_set(err, "the CUDA backend has no precision \"%s\": fp32, fp16 or bf16",
                        precision);
}

/* The device's name, once it is known to be new enough. */
static int choose_device(ks_cuda *c, int device, ks_error *err)
{
    int count = 0;
    cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess)
        return ks_error_set(err, "no NVIDIA GPU can be used: %s", cudaGetErrorString(status));
    if (device < 0 || device >= count)
        return ks_error_set(err, "GPU %d is not there: this process sees %d", device, count);
    struct cudaDeviceProp property;
    status = cudaGetDeviceProperties(&property, device);
    if (status != cudaSuccess)
        return ks_error_set(err, "GPU %d: %s", device, cudaGetErrorString(status));
    if (property.major < LEAST_CAPABILITY)
        return ks_error_set(err, "GPU %d, %s, has compute capability %d.%d; %d.0 is needed", device,
                            property.name, property.major, property.minor, LEAST_CAPABILITY);
    c->device = device;
    snprintf(c->ops.device, sizeof c->ops.device, "%.*s", (int)sizeof c->ops.device - 1,
             property.name);
    return 0;
}

/* Stream and libraries; a first launch shows whether this build has code for the GPU. */
static int open_device(ks_cuda *c, ks_error *err)
{
    bool good = KS_CUDA_CALL(c, cudaSetDevice(c->device)) &&
                KS_CUDA_CALL(c, cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking)) &&
                KS_CUDA_CALL(c, ks_cuda_probe(c->stream)) &&
                KS_CUDA_CALL(c, cudaStreamSynchronize(c->stream)) &&
                KS_CUDA_BLAS(c, cublasLtCreate(&c->blas)) &&
                KS_CUDA_DNN(c, cudnnCreate(&c->dnn)) &&
                KS_CUDA_DNN(c, cudnnSetStream(c->dnn, c->stream));
    if (!good)
        return ks_error_set(err, "%s", c->failure.text);
    c->blas_workspace = ks_cuda_alloc(&c->ops, BLAS_WORKSPACE, err);
    c->small = c->blas_workspace ? ks_cuda_alloc(&c->ops, ks_cuda_small_bytes(), err) : NULL;
    return c->small && ks_cuda_transfer_init(c, err) == 0 ? ks_cuda_clocks_init(c, err) : -1;
}

ks_ops *ks_ops_cuda(int device, const char *precision, ks_error *err)
{
    ks_cuda *c = calloc(1, sizeof *c);
    if (!c) {
        ks_error_set(err, "no memory for the CUDA backend");
        return NULL;
    }
    c->ops = operations;
    c->ops.self = c;
    ks_cuda_operations(&c->ops);
    if (choose_type(c, precision, err) == 0 && choose_device(c, device, err) == 0 &&
        open_device(c, err) == 0) {
        c->ops.slices = ks_cuda_gemm_fits_conv(c->type, 3, 3, 64, 64); /* cuDNN wants dense ones */
        return &c->ops;
    }
    cuda_free(&c->ops);
    return NULL;
}
