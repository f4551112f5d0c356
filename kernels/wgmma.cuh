/* Hopper's own instructions, under names: mbarriers, the bulk tensor copy engine (TMA), and wgmma
 * with fp16 or bf16 operands and fp32 sums. For sm_90a alone.
 *
 * Tiles in shared memory are rows of 64 elements (128 bytes) whose eight 16-byte units are swizzled
 * by the row (unit u of row r lies at u ^ (r % 8)), as TMA's 128-byte swizzle writes them; a tile
 * starts on 1024 bytes. wgmma reads such a tile as an operand whose long side is either the sum's
 * (k-major: q and k) or the output's (the transposed form: v). Sums lie in registers as in mma.cuh,
 * 16 rows a warp. */
#ifndef KS_KERNELS_WGMMA_CUH
#define KS_KERNELS_WGMMA_CUH

#include <cuda.h>

#include "mma.cuh"

/* A function of the driver by its name; NULL where it has none. */
inline void *ks_driver_function(const char *name)
{
    void *function = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found) !=
        cudaSuccess)
        function = nullptr;
    return function;
}

/* The driver's cuTensorMapEncodeTiled; NULL where it has none. */
inline decltype(&cuTensorMapEncodeTiled) ks_map_encoder()
{
    static const auto encoder = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(
        ks_driver_function("cuTensorMapEncodeTiled"));
    return encoder;
}

/* The same of cuTensorMapEncodeIm2col. */
inline decltype(&cuTensorMapEncodeIm2col) ks_patch_map_encoder()
{
    static const auto encoder = reinterpret_cast<decltype(&cuTensorMapEncodeIm2col)>(
        ks_driver_function("cuTensorMapEncodeIm2col"));
    return encoder;
}

/* Whether the kernel's code is for this chip: launch bounds elsewhere leave fewer threads. */
template <class Job> inline bool ks_runs_here(void (*kernel)(Job), int threads)
{
    cudaFuncAttributes attributes;
    if (cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(kernel)) != cudaSuccess) {
        (void)cudaGetLastError();
        return false;
    }
    return attributes.maxThreadsPerBlock >= threads;
}

/* Multiprocessors of the current device; at least 1. */
inline int ks_multiprocessors()
{
    int device = 0, count = 0;
    if (cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess)
        (void)cudaGetLastError();
    return count > 1 ? count : 1;
}

__device__ __forceinline__ void ks_barrier_init(uint64_t *barrier, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(ks_shared_address(barrier)),
                 "r"(arrivals)
                 : "memory");
}

/* Makes initialised barriers known to the copy engine. */
__device__ __forceinline__ void ks_barrier_publish()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void ks_barrier_arrive(uint64_t *barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(ks_shared_address(barrier))
                 : "memory");
}

/* Arrives, and has the phase wait for `bytes` of copies too. */
__device__ __forceinline__ void ks_barrier_expect(uint64_t *barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     ks_shared_address(barrier)),
                 "r"(bytes)
                 : "memory");
}

/* Waits until the barrier's phase of this parity has ended. */
__device__ __forceinline__ void ks_barrier_wait(uint64_t *barrier, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(ks_shared_address(barrier)),
                 "r"(parity)
                 : "memory");
}

/* Named barrier `id` of `threads` threads: waits, or only arrives. */
__device__ __forceinline__ void ks_threads_wait(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void ks_threads_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* Ordinary writes to shared memory come before what TMA or wgmma reads after the next barrier. */
__device__ __forceinline__ void ks_fence_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int REGISTERS> __device__ __forceinline__ void ks_registers_raise()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> __device__ __forceinline__ void ks_registers_lower()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* A box of a [row][token][head][channel] tensor to shared memory; counted by the barrier. */
__device__ __forceinline__ void ks_tensor_load(void *to, const CUtensorMap *map, uint64_t *barrier,
                                               int channel, int head, int token, int row)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(ks_shared_address(to)),
                 "l"(map), "r"(ks_shared_address(barrier)), "r"(channel), "r"(head), "r"(token),
                 "r"(row)
                 : "memory");
}

/* A box of a matrix [row][column] to shared memory; counted by the barrier. */
__device__ __forceinline__ void ks_matrix_load(void *to, const CUtensorMap *map, uint64_t *barrier,
                                               int column, int row)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%3, %4}], [%2];" ::"r"(ks_shared_address(to)),
                 "l"(map), "r"(ks_shared_address(barrier)), "r"(column), "r"(row)
                 : "memory");
}

/* Channels of pixels in a row, of an im2col map of pictures [image][y][x][channel], to shared
 * memory; counted by the barrier. channel, x, y, image: of the first pixel; right, down: where
 * in each pixel's window. */
__device__ __forceinline__ void ks_patch_load(void *to, const CUtensorMap *map, uint64_t *barrier,
                                              int channel, int x, int y, int image, int right,
                                              int down)
{
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(ks_shared_address(to)),
        "l"(map), "r"(ks_shared_address(barrier)), "r"(channel), "r"(x), "r"(y), "r"(image),
        "h"((uint16_t)right), "h"((uint16_t)down)
        : "memory");
}

/* A box from shared memory; what lies outside the tensor is not written. */
__device__ __forceinline__ void ks_tensor_store(const CUtensorMap *map, const void *from,
                                                int channel, int head, int token, int row)
{
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group "
                 "[%0, {%2, %3, %4, %5}], [%1];" ::"l"(map),
                 "r"(ks_shared_address(from)), "r"(channel), "r"(head), "r"(token), "r"(row)
                 : "memory");
}

/* Closes a group of this thread's stores. */
__device__ __forceinline__ void ks_tensor_store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Waits until all of this thread's groups of stores have read their shared memory. */
__device__ __forceinline__ void ks_tensor_store_wait()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ __forceinline__ void ks_wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void ks_wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> __device__ __forceinline__ void ks_wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Keeps the compiler from using sums before the wait that stands above. */
template <int WIDE> __device__ __forceinline__ void ks_wgmma_settle(float (&d)[WIDE][4])
{
#pragma unroll
    for (int j = 0; j < WIDE; j++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            asm volatile("" : "+f"(d[j][e])::"memory");
}

/* A swizzled tile as wgmma's operand, from `offset` bytes after its start on: 8 rows are 1024
 * bytes. Only the low half depends on where it is, so that the next offset is one addition. */
__device__ __forceinline__ uint64_t ks_wgmma_tile(const void *tile, int offset)
{
    const uint32_t eight_rows = 1024 / 16;
    const uint32_t low = (ks_shared_address(tile) & 0x3ffff) / 16 | eight_rows << 16;
    return (uint64_t)(eight_rows | 1u << 30) << 32 | (low + (uint32_t)offset / 16);
}

/* Operand lists of wgmma's sums: %0 to %(N/2 - 1), and the same as constraints. */
#define KS_F4(x) "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
#define KS_SUMS_16_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7"
#define KS_SUMS_16 \
        KS_F4(d[0]), KS_F4(d[1])
#define KS_SUMS_32_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define KS_SUMS_32 \
        KS_F4(d[0]), KS_F4(d[1]), KS_F4(d[2]), KS_F4(d[3])
#define KS_SUMS_40_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19"
#define KS_SUMS_40 \
        KS_F4(d[0]), KS_F4(d[1]), KS_F4(d[2]), KS_F4(d[3]), \
        KS_F4(d[4])
#define KS_SUMS_64_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define KS_SUMS_64 \
        KS_F4(d[0]), KS_F4(d[1]), KS_F4(d[2]), KS_F4(d[3]), \
        KS_F4(d[4]), KS_F4(d[5]), KS_F4(d[6]), KS_F4(d[7])
#define KS_SUMS_80_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39"
#define KS_SUMS_80 \
        KS_F4(d[0]), KS_F4(d[1]), KS_F4(d[2]), KS_F4(d[3]), \
        KS_F4(d[4]), KS_F4(d[5]), KS_F4(d[6]), KS_F4(d[7]), \
        KS_F4(d[8]), KS_F4(d[9])
#define KS_SUMS_128_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define KS_SUMS_128 \
        KS_F4(d[0]), KS_F4(d[1]), KS_F4(d[2]), KS_F4(d[3]), \
        KS_F4(d[4]), KS_F4(d[5]), KS_F4(d[6]), KS_F4(d[7]), \
        KS_F4(d[8]), KS_F4(d[9]), KS_F4(d[10]), KS_F4(d[11]), \
        KS_F4(d[12]), KS_F4(d[13]), KS_F4(d[14]), KS_F4(d[15])
#define KS_SUMS_96_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define KS_SUMS_96 \
        KS_F4(d[0]), KS_F4(d[1]), KS_F4(d[2]), KS_F4(d[3]), \
        KS_F4(d[4]), KS_F4(d[5]), KS_F4(d[6]), KS_F4(d[7]), \
        KS_F4(d[8]), KS_F4(d[9]), KS_F4(d[10]), KS_F4(d[11])
#define KS_SUMS_160_NAMES \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, " \
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define KS_SUMS_160 \
        KS_F4(d[0]), KS_F4(d[1]), KS_F4(d[2]), KS_F4(d[3]), \
        KS_F4(d[4]), KS_F4(d[5]), KS_F4(d[6]), KS_F4(d[7]), \
        KS_F4(d[8]), KS_F4(d[9]), KS_F4(d[10]), KS_F4(d[11]), \
        KS_F4(d[12]), KS_F4(d[13]), KS_F4(d[14]), KS_F4(d[15]), \
        KS_F4(d[16]), KS_F4(d[17]), KS_F4(d[18]), KS_F4(d[19])

/* For one type and N: ks_wgmma's scores, d (64 x N) = or += a b^T with both k-major tiles in shared
 * memory (add: 0 or 1); and ks_wgmma_values' values, d = or += a b with a in registers and b a
 * transposed tile. */
template <class T, int N> struct ks_wgmma;
template <class T, int N> struct ks_wgmma_values;

#define KS_WGMMA_SCORES(TYPE, NAME, N, DA, DB, ADD)                                               \
    template <> struct ks_wgmma<TYPE, N> {                                                         \
        static __device__ __forceinline__ void scores(float (&d)[N / 8][4], uint64_t a,            \
                                                      uint64_t b, int add)                         \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD ", 0;\n"                          \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {"      \
                         KS_SUMS_##N##_NAMES "}, " DA ", " DB ", p, 1, 1, 0, 0;\n}"                \
                         : KS_SUMS_##N                                                             \
                         : "l"(a), "l"(b), "r"(add));                                              \
        }                                                                                          \
    };

#define KS_WGMMA_VALUES(TYPE, NAME, N, A, B, ADD)                                                  \
    template <> struct ks_wgmma_values<TYPE, N> {                                                  \
        static __device__ __forceinline__ void values(float (*d)[4], const uint32_t (&a)[4],       \
                                                      uint64_t b, int add)                         \
        {                                                                                          \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " ADD ", 0;\n"                          \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." NAME "." NAME " {"      \
                         KS_SUMS_##N##_NAMES "}, {" A "}, " B ", p, 1, 1, 1;\n}"                   \
                         : KS_SUMS_##N                                                             \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));          \
        }                                                                                          \
    };

#define KS_WGMMA_TYPE(TYPE, NAME)                                                                  \
    KS_WGMMA_SCORES(TYPE, NAME, 64, "%32", "%33", "%34")                                           \
    KS_WGMMA_SCORES(TYPE, NAME, 80, "%40", "%41", "%42")                                           \
    KS_WGMMA_SCORES(TYPE, NAME, 96, "%48", "%49", "%50")                                           \
    KS_WGMMA_SCORES(TYPE, NAME, 128, "%64", "%65", "%66")                                          \
    KS_WGMMA_SCORES(TYPE, NAME, 160, "%80", "%81", "%82")                                          \
    KS_WGMMA_VALUES(TYPE, NAME, 16, "%8, %9, %10, %11", "%12", "%13")                              \
    KS_WGMMA_VALUES(TYPE, NAME, 32, "%16, %17, %18, %19", "%20", "%21")                            \
    KS_WGMMA_VALUES(TYPE, NAME, 40, "%20, %21, %22, %23", "%24", "%25")                            \
    KS_WGMMA_VALUES(TYPE, NAME, 64, "%32, %33, %34, %35", "%36", "%37")

KS_WGMMA_TYPE(__half, "f16")
KS_WGMMA_TYPE(__nv_bfloat16, "bf16")

#endif
