/* Thread block clusters (sm_90), under names: the blocks of one run at the same time, reach each
 * other's shared memory and wait for each other. */
#ifndef KS_KERNELS_CLUSTER_CUH
#define KS_KERNELS_CLUSTER_CUH

#include "wgmma.cuh"

enum {
    KS_CLUSTER_MOST = 16, /* blocks; more than 8 only with a kernel's leave */
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    KS_CLUSTERS = 1
#else
    KS_CLUSTERS = 0 /* launch bounds tell the launcher so, see ks_runs_here */
#endif
};

/* The block's number in its cluster. */
__device__ __forceinline__ int ks_cluster_rank()
{
    uint32_t rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return (int)rank;
}

/* All threads of the cluster arrive, then wait for all. Waits for all that the thread has written
 * too, wherever to: for the beginning of a kernel. */
__device__ __forceinline__ void ks_cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

__device__ __forceinline__ void ks_cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Sends a value to where `to` is in the cluster's block `rank`, and its 16 bytes to that block's
 * barrier, which is where this block's is. Waits for nothing. */
__device__ __forceinline__ void ks_cluster_send(double2 *to, uint64_t *barrier, int rank,
                                                double2 value)
{
    asm volatile("{\n"
                 ".reg .b32 there, counted;\n"
                 "mapa.shared::cluster.u32 there, %0, %2;\n"
                 "mapa.shared::cluster.u32 counted, %1, %2;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f64 "
                 "[there], {%3, %4}, [counted];\n"
                 "}" ::"r"(ks_shared_address(to)),
                 "r"(ks_shared_address(barrier)), "r"(rank), "d"(value.x), "d"(value.y)
                 : "memory");
}

/* Waits until the barrier's phase of this parity has ended, to which other blocks have sent. */
__device__ __forceinline__ void ks_cluster_barrier_wait(uint64_t *barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(ks_shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* Launches kernel(job) in at most so many clusters of `ranks` blocks, all of them there at once; a
 * cudaError_t. cudaErrorNotSupported where this chip has no room for one, or the kernel was not
 * built for clusters. A failure is returned and not left behind in cudaGetLastError. */
template <class Job>
int ks_cluster_launch(void (*kernel)(Job), int64_t clusters, int ranks, int threads, size_t shared,
                      void *stream, const Job &job)
{
    const void *function = reinterpret_cast<const void *>(kernel);
    cudaLaunchAttribute cluster = {};
    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = (unsigned)ranks;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3((unsigned)ranks), config.blockDim = dim3((unsigned)threads);
    config.dynamicSmemBytes = shared, config.stream = static_cast<cudaStream_t>(stream);
    config.attrs = &cluster, config.numAttrs = 1;
    int room = 0;
    if (!ks_runs_here(kernel, threads) ||
        cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared) !=
            cudaSuccess ||
        cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared) != cudaSuccess ||
        cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) !=
            cudaSuccess ||
        cudaOccupancyMaxActiveClusters(&room, function, &config) != cudaSuccess || room < 1) {
        (void)cudaGetLastError();
        return (int)cudaErrorNotSupported;
    }
    void *arguments[] = {const_cast<Job *>(&job)};
    config.gridDim.x = (unsigned)(clusters < room ? clusters : room) * (unsigned)ranks;
    const cudaError_t failed = cudaLaunchKernelExC(&config, function, arguments);
    if (failed != cudaSuccess)
        (void)cudaGetLastError();
    return (int)failed;
}

#endif
