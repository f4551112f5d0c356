/* The matrix and copy instructions of sm_80 and later, under names: cp.async, ldmatrix,
 * mma.m16n8k16 with fp16 or bf16 operands and fp32 sums; and the launch of a kernel that takes one
 * job by value.
 *
 * Fragments, as PTX defines them, for lane l of a warp, r = l / 4, c = 2 * (l % 4):
 *   A (16 x 16): a[0] = (r, c..c+1), a[1] = (r + 8, c..), a[2] = (r, c + 8..),
 *                a[3] = (r + 8, c + 8..)
 *   B (16 x 8):  b0 = (c..c+1, r), b1 = (c + 8.., r)
 *   D (16 x 8):  d[0..1] = (r, c..c+1), d[2..3] = (r + 8, c..c+1) */
#ifndef KS_KERNELS_MMA_CUH
#define KS_KERNELS_MMA_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>

__device__ __forceinline__ uint32_t ks_shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes from global to shared memory, asynchronously; zeros when not inside. */
__device__ __forceinline__ void ks_cp_async16(void *to, const void *from, bool inside)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(ks_shared_address(to)),
                 "l"(from), "r"(inside ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void ks_cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most PENDING of this thread's groups are under way. */
template <int PENDING> __device__ __forceinline__ void ks_cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* Four 8 x 8 matrices; lane l gives the address of row l % 8 of matrix l / 8. */
__device__ __forceinline__ void ks_ldmatrix(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ks_shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void ks_ldmatrix_transposed(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(ks_shared_address(row))
                 : "memory");
}

/* d += a b */
template <class T>
__device__ __forceinline__ void ks_mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                       uint32_t b1);

template <>
__device__ __forceinline__ void ks_mma<__half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                               uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void ks_mma<__nv_bfloat16>(float (&d)[4], const uint32_t (&a)[4],
                                                      uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 2^x to about 2 units in the last place of fp32; 2^-inf = 0. */
__device__ __forceinline__ float ks_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* 1 / x to about 1 unit in the last place of fp32; 0 from 2^126 on. */
__device__ __forceinline__ float ks_reciprocal(float x)
{
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two values rounded to T, the first in the low half. */
template <class T> __device__ __forceinline__ uint32_t ks_pack(float low, float high);

template <> __device__ __forceinline__ uint32_t ks_pack<__half>(float low, float high)
{
    __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

template <> __device__ __forceinline__ uint32_t ks_pack<__nv_bfloat16>(float low, float high)
{
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<uint32_t *>(&pair);
}

/* Launches kernel(job); a cudaError_t. Asks for more shared memory than the usual 48 KB when the
 * kernel needs it. A failure is returned and not left behind in cudaGetLastError. */
template <class Job>
int ks_launch(void (*kernel)(Job), dim3 grid, int threads, size_t shared, void *stream,
              const Job &job)
{
    const void *function = reinterpret_cast<const void *>(kernel);
    cudaError_t failed = cudaSuccess;
    if (shared > 48 * 1024)
        failed = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)shared);
    void *arguments[] = {const_cast<Job *>(&job)};
    if (failed == cudaSuccess)
        failed = cudaLaunchKernel(function, grid, dim3((unsigned)threads), arguments, shared,
                                  static_cast<cudaStream_t>(stream));
    if (failed != cudaSuccess)
        (void)cudaGetLastError();
    return (int)failed;
}

#endif
