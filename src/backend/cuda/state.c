/* Failures that are kept, device memory and the stack of activations. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/cuda/cuda.h"

enum { ALIGNMENT = 256, LEAST_CHUNK = 128 << 20 };

/* --- failures --- */

void ks_cuda_fail(ks_cuda *c, const char *format, ...)
{
    if (c->failed)
        return;
    c->failed = true;
    va_list args;
    va_start(args, format);
    vsnprintf(c->failure.text, sizeof c->failure.text, format, args);
    va_end(args);
}

bool ks_cuda_good(ks_cuda *c, int status, const char *what)
{
    if (status == cudaSuccess)
        return true;
    cudaGetLastError(); /* an error that ended with its call is not the next one's */
    ks_cuda_fail(c, "GPU %d: %.*s: %s", c->device, (int)sizeof c->failure.text / 2, what,
                 cudaGetErrorString((cudaError_t)status));
    return false;
}

bool ks_cuda_blas_good(ks_cuda *c, cublasStatus_t status, const char *what)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return true;
    ks_cuda_fail(c, "GPU %d: %.*s: %s", c->device, (int)sizeof c->failure.text / 2, what,
                 cublasLtGetStatusString(status));
    return false;
}

bool ks_cuda_dnn_good(ks_cuda *c, cudnnStatus_t status, const char *what)
{
    if (status == CUDNN_STATUS_SUCCESS)
        return true;
    ks_cuda_fail(c, "GPU %d: %.*s: %s", c->device, (int)sizeof c->failure.text / 2, what,
                 cudnnGetErrorString(status));
    return false;
}

bool ks_cuda_runs(ks_cuda *c, bool fits, const char *operation, ks_act y, ks_act x)
{
    if (c->stuck)
        ks_cuda_fail(c, "GPU %d: what it shares with other ranks has no end", c->device);
    if (c->failed)
        return false;
    if (!fits)
        ks_cuda_fail(c,
                     "cuda backend: %s: y [%d, %d, %d, %d] does not fit x [%d, %d, %d, %d] and the "
                     "operation's other arguments",
                     operation, y.n, y.h, y.w, y.c, x.n, x.h, x.w, x.c);
    return fits && KS_CUDA_CALL(c, cudaSetDevice(c->device));
}

bool ks_cuda_same_shape(ks_act a, ks_act b)
{
    return a.n == b.n && a.h == b.h && a.w == b.w && a.c == b.c;
}

/* --- memory --- */

/* The driver may wait for the device where it gives memory, longer than other ranks are there: what is shared with them is
 * waited for before. */
static bool settled(ks_cuda *c)
{
    return !ks_cuda_has_others(c) || ks_cuda_passed(c, NULL);
}

void *ks_cuda_alloc(ks_ops *ops, size_t bytes, ks_error *err)
{
    ks_cuda *c = ks_cuda_of(ops);
    void *memory = NULL;
    cudaError_t status = cudaSetDevice(c->device);
    if (!settled(c)) {
        ops->fault = true;
        ks_error_set(err, "%s", c->failure.text);
        return NULL;
    }
    if (status == cudaSuccess)
        status = cudaMalloc(&memory, bytes ? bytes : 1);
    if (status == cudaSuccess)
        status = cudaMemsetAsync(memory, 0, bytes, c->stream);
    if (status == cudaSuccess)
        return memory;
    cudaGetLastError();
    cudaFree(memory);
    ops->fault = true;
    ks_error_set(err, "GPU %d: no memory for %.1f MiB, %.1f MiB are free: %s", c->device,
                 (double)bytes / (1 << 20), (double)ks_cuda_memory_free(ops) / (1 << 20),
                 cudaGetErrorString(status));
    return NULL;
}

/* What is queued may still use it. */
void ks_cuda_release(ks_ops *ops, void *memory)
{
    ks_cuda *c = ks_cuda_of(ops);
    if (!memory)
        return;
    cudaSetDevice(c->device);
    ks_cuda_passed(c, NULL);
    if (!c->stuck)
        KS_CUDA_CALL(c, cudaFree(memory));
}

size_t ks_cuda_memory_free(ks_ops *ops)
{
    size_t left = 0, all = 0;
    if (cudaSetDevice(ks_cuda_of(ops)->device) != cudaSuccess ||
        cudaMemGetInfo(&left, &all) != cudaSuccess)
        return 0;
    return left;
}

/* --- the stack of activations --- */

size_t ks_cuda_mark(ks_ops *ops)
{
    const ks_cuda *c = ks_cuda_of(ops);
    return c->chunks ? c->chunk[c->current].start + c->used : 0;
}

void ks_cuda_unwind(ks_ops *ops, size_t mark)
{
    ks_cuda *c = ks_cuda_of(ops);
    while (c->current > 0 && mark < c->chunk[c->current].start)
        c->current--;
    c->used = c->chunks ? mark - c->chunk[c->current].start : 0;
}

/* A further chunk of at least `bytes`. */
static bool add_chunk(ks_cuda *c, size_t bytes)
{
    size_t size = bytes > LEAST_CHUNK ? bytes : LEAST_CHUNK;
    ks_cuda_chunk *grown = realloc(c->chunk, (size_t)(c->chunks + 1) * sizeof *grown);
    if (!grown)
        return false;
    c->chunk = grown;
    void *data = NULL;
    if (cudaSetDevice(c->device) != cudaSuccess || !settled(c) || cudaMalloc(&data, size) != cudaSuccess) {
        cudaGetLastError();
        return false;
    }
    size_t start = c->chunks ? grown[c->chunks - 1].start + grown[c->chunks - 1].size : 0;
    grown[c->chunks++] = (ks_cuda_chunk){.data = data, .start = start, .size = size};
    return true;
}

/* The first place from the top on that has room. Chunks never move and are only added behind, so
 * the same calls find the same places again. */
void *ks_cuda_take(ks_cuda *c, size_t bytes)
{
    if (c->failed)
        return NULL;
    bytes = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    int k = c->current;
    size_t used = c->used;
    while (k < c->chunks && bytes > c->chunk[k].size - used) {
        k++;
        used = 0;
    }
    if (k == c->chunks && (c->capturing || !add_chunk(c, bytes))) {
        ks_cuda_fail(c, "GPU %d: no memory for activations of %.1f MiB, %.1f MiB are free",
                     c->device, (double)bytes / (1 << 20),
                     (double)ks_cuda_memory_free(&c->ops) / (1 << 20));
        return NULL;
    }
    c->current = k;
    c->used = used + bytes;
    return c->chunk[k].data + used;
}

ks_act ks_cuda_act(ks_ops *ops, int n, int h, int w, int c)
{
    ks_cuda *cuda = ks_cuda_of(ops);
    ks_act a = {.n = n, .h = h, .w = w, .c = c, .stride = c};
    a.data = ks_cuda_take(cuda, (size_t)n * (size_t)h * (size_t)w * (size_t)c *
                                    ks_cuda_element(cuda));
    return a;
}
