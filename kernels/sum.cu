/* The sum of two devices' arrays costs what one array takes from one to the other, and one kernel: each block writes a tile of
 * its share of y into the other device's memory, raises a flag there, and adds the tile before, once the other's flag says that
 * it has come. There are two such inboxes in turn: a device that sends in the next turn but one has seen the other's flags
 * of the turn between, which that one raised when it had done with this turn. So no device waits for an inbox to be read.
 *
 * On two H100 (18 NVLinks; bench_split_gpu, 2026-11-25): 5.2 MB in 21.9 us, 10.5 MB in 39.6, 21 MB in 71.7, 84 MB in 271 (309 GB/s
 * each way); NCCL: 36.5, 53.0, 95.3 and 311. With warps that only send, one that only raises flags and others that only add, with
 * tiles of 8 KB, it was slower: 27.8, 47.7, 90.6 and 355. Each flag waits for all that its multiprocessor has under way. */
#include "kernels/sum.h"

#include "kernels/grid.cuh"
#include "kernels/types.cuh"

namespace {

using namespace ks;

/* V elements a step, 16 bytes, part after part. */
template <typename T, int V> __global__ void sum_parts(T *y, const T *part, int parts, int64_t n)
{
    for (int64_t i = first_index() * V; i < n; i += index_step() * V) {
        float sum[V], more[V];
        load_floats<T, V>(sum, part + i);
        for (int k = 1; k < parts; k++) {
            load_floats<T, V>(more, part + k * n + i);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[j] += more[j];
        }
        store_floats<T, V>(y + i, sum);
    }
}

/* --- two devices --- */

constexpr int exchange_threads = 512, units_a_thread = 4, tile = exchange_threads * units_a_thread; /* of 16 bytes */
constexpr int turn_bits = 20; /* of a flag: tiles of a block within a turn */

/* A block's flag, with a sector of its own. */
struct alignas(32) flag {
    uint64_t count;
};

struct exchange_memory {
    flag sent[2][KS_CUDA_EXCHANGE_BLOCKS];
    uint4 inbox[2][KS_CUDA_EXCHANGE_MOST / sizeof(uint4)];
};

/* turn: sums done so far; ended: blocks of this one that have come to their end. */
struct turns {
    uint64_t turn;
    unsigned ended;
};
static_assert(sizeof(turns) <= KS_CUDA_TURN_BYTES, "the host allocates it");

/* All that this block has written before is there for whoever sees the flag. */
__device__ __forceinline__ void raise(flag *f, uint64_t count)
{
    asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(&f->count), "l"(count) : "memory");
}

__device__ __forceinline__ uint64_t look(const flag *f)
{
    uint64_t count;
    asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(count) : "l"(&f->count) : "memory");
    return count;
}

/* Whether the other device raised the flag; false: the host has given it up. */
__device__ bool wait_for(const flag *f, uint64_t count, const volatile int *given_up)
{
    constexpr int looks = 1 << 12;
    for (int i = 0; look(f) < count; i = (i + 1) % looks)
        if (i == looks - 1 && *given_up)
            return false;
    return true;
}

/* y in units of 16 bytes: which are one after the other, or a slice of wider pixels. */
template <bool DENSE> struct units_of {
    uint4 *data;
    uint32_t count, pixel, stride; /* in all, of a pixel, and from pixel to pixel */

    __device__ __forceinline__ uint4 *at(uint32_t i) const
    {
        return data + (DENSE ? i : static_cast<int64_t>(i / pixel) * stride + i % pixel);
    }
};

/* A tile of y as it is, to the other device. */
template <bool DENSE> __device__ __forceinline__ void send(uint4 *to, units_of<DENSE> y, uint32_t first, uint32_t end)
{
    uint4 unit[units_a_thread];
#pragma unroll
    for (int k = 0; k < units_a_thread; k++) {
        const uint32_t i = first + k * exchange_threads + threadIdx.x;
        if (i < end)
            unit[k] = *y.at(i);
    }
#pragma unroll
    for (int k = 0; k < units_a_thread; k++) {
        const uint32_t i = first + k * exchange_threads + threadIdx.x;
        if (i < end)
            to[i] = unit[k];
    }
}

/* What has come is read past the first cache, which knows nothing of other devices. */
template <typename T, bool DENSE>
__device__ __forceinline__ void add(units_of<DENSE> y, const uint4 *inbox, uint32_t first, uint32_t end)
{
    constexpr int V = 16 / sizeof(T);
#pragma unroll
    for (int k = 0; k < units_a_thread; k++) {
        const uint32_t i = first + k * exchange_threads + threadIdx.x;
        if (i >= end)
            continue;
        const uint4 came = __ldcg(inbox + i);
        float sum[V], more[V];
        T *to = reinterpret_cast<T *>(y.at(i));
        load_floats<T, V>(sum, to);
        load_floats<T, V>(more, reinterpret_cast<const T *>(&came));
#pragma unroll
        for (int j = 0; j < V; j++)
            sum[j] += more[j];
        store_floats<T, V>(to, sum);
    }
}

/* A block has `share` units. Tiles are sent one ahead of the one that is added, so that the way between the devices is never
 * idle. */
template <typename T, bool DENSE>
__global__ void __launch_bounds__(exchange_threads, KS_CUDA_EXCHANGE_MOST_EACH)
    sum_with_other(units_of<DENSE> y, uint32_t share, exchange_memory *own, exchange_memory *other, turns *t,
                   const volatile int *given_up)
{
    __shared__ bool there;
    const uint64_t turn = t->turn + 1, base = turn << turn_bits;
    const int side = static_cast<int>(turn & 1);
    const flag *from = &own->sent[side][blockIdx.x];
    flag *to = &other->sent[side][blockIdx.x];
    uint32_t first = blockIdx.x * share;
    const uint32_t end = min(first + share, y.count);
    for (uint64_t count = 0;; count++, first += tile) {
        if (first < end)
            send(other->inbox[side], y, first, end);
        __syncthreads();
        if (threadIdx.x == 0) {
            if (first < end)
                raise(to, base + count + 1);
            there = count == 0 || wait_for(from, base + count, given_up);
        }
        __syncthreads();
        if (!there)
            break;
        if (count > 0)
            add<T>(y, own->inbox[side], first - tile, end);
        if (first >= end)
            break;
    }
    if (threadIdx.x == 0 && atomicAdd(&t->ended, 1) == gridDim.x - 1) {
        t->ended = 0;
        t->turn = turn;
    }
}

template <typename T, bool DENSE> int launch_with_other(void *stream, ks_act y, const ks_cuda_exchange *x)
{
    constexpr int V = 16 / sizeof(T);
    const int64_t count = pixels_of(y) * (y.c / V), most = x->blocks;
    const int64_t share = ((count + most - 1) / most + 31) / 32 * 32; /* whole warps' */
    const units_of<DENSE> units = {static_cast<uint4 *>(y.data), static_cast<uint32_t>(count), static_cast<uint32_t>(y.c / V),
                                   static_cast<uint32_t>(y.stride / V)};
    const unsigned grid = static_cast<unsigned>((count + share - 1) / share);
    sum_with_other<T, DENSE><<<grid, exchange_threads, 0, stream_of(stream)>>>(
        units, static_cast<uint32_t>(share), static_cast<exchange_memory *>(x->own), static_cast<exchange_memory *>(x->other),
        static_cast<turns *>(x->turns), x->given_up);
    return cudaGetLastError();
}

} // namespace

int ks_cuda_sum(void *stream, ks_dtype type, void *y, const void *part, int parts, int64_t n)
{
    if (n % KS_CUDA_SUM_UNIT != 0)
        return cudaErrorInvalidValue;
    if (n == 0)
        return cudaSuccess;
    return with_type(type, [&](auto zero) -> int {
        using T = decltype(zero);
        constexpr int V = 16 / sizeof(T);
        sum_parts<T, V><<<blocks_for(n / V), threads, 0, stream_of(stream)>>>(static_cast<T *>(y), static_cast<const T *>(part),
                                                                            parts, n);
        return cudaGetLastError();
    });
}

size_t ks_cuda_exchange_bytes(void)
{
    return sizeof(exchange_memory);
}

int ks_cuda_sum_with_other(void *stream, ks_dtype type, ks_act y, const ks_cuda_exchange *x)
{
    const int64_t bytes = pixels_of(y) * y.c * element_size(type);
    if (!packable(type, y) || bytes > KS_CUDA_EXCHANGE_MOST || x->blocks < 1 || x->blocks > KS_CUDA_EXCHANGE_BLOCKS)
        return cudaErrorInvalidValue;
    if (bytes == 0)
        return cudaSuccess;
    return with_type(type, [&](auto zero) -> int {
        using T = decltype(zero);
        return y.stride == y.c ? launch_with_other<T, true>(stream, y, x) : launch_with_other<T, false>(stream, y, x);
    });
}
