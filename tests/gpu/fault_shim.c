/* Preloaded into ksweep, it makes a sound GPU fail as a broken or a full one does:
 *
 *     FAULT_LAUNCH=N   before graph launch number N a kernel traps: a real fault, which all later calls meet
 *     FAULT_MALLOC=N   allocation number N of device memory is refused
 *     FAULT_FREE=B     no more than B bytes of device memory are free
 */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

void fault_trap(cudaStream_t stream);

static long long number(const char *name)
{
    const char *text = getenv(name);
    return text ? atoll(text) : 0;
}

/* The function that this library stands before. */
static void find_next(const char *name, void *function, size_t size)
{
    void *next = dlsym(RTLD_NEXT, name);
    if (!next)
        abort();
    memcpy(function, &next, size);
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    static long long launches;
    static cudaError_t (*next)(cudaGraphExec_t, cudaStream_t);
    if (!next)
        find_next("cudaGraphLaunch", &next, sizeof next);
    if (++launches == number("FAULT_LAUNCH"))
        fault_trap(stream);
    return next(graph, stream);
}

cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    static long long allocations;
    static cudaError_t (*next)(void **, size_t);
    if (!next)
        find_next("cudaMalloc", &next, sizeof next);
    if (++allocations == number("FAULT_MALLOC"))
        return cudaErrorMemoryAllocation;
    return next(memory, bytes);
}

cudaError_t cudaMemGetInfo(size_t *left, size_t *all)
{
    static cudaError_t (*next)(size_t *, size_t *);
    if (!next)
        find_next("cudaMemGetInfo", &next, sizeof next);
    cudaError_t status = next(left, all);
    size_t most = (size_t)number("FAULT_FREE");
    if (status == cudaSuccess && most && *left > most)
        *left = most;
    return status;
}
