/* The sum of two devices' arrays costs what one array takes from one to the other, and one kernel. In each block some warps
 * write its share of y into the other device's memory, tile after tile, and never wait; one warp raises a flag there behind
 * each tile, when that has arrived; the others add the tiles whose flags the other device has raised here. There are two
 * inboxes in turn: a device that sends in the next turn but one has seen the other's flags of the turn between, which that one
 * raised when it had done with this turn. So no device waits for an inbox to be read. */
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

constexpr int role_warps = 8, role_threads = 32 * role_warps, exchange_threads = 2 * role_threads + 32;
constexpr int units_a_thread = 2, tile = role_threads * units_a_thread; /* of 16 bytes */
constexpr int turn_bits = 20;                                           /* of a flag: tiles of a block within a turn */

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

/* Whether the other device raised the flag; false: the host has given it up. For a whole warp. */
__device__ bool wait_for(const flag *f, uint64_t count, const volatile int *given_up)
{
    constexpr int looks = 1 << 12;
    bool there = true;
    if (threadIdx.x % 32 == 0)
        for (int i = 0; there && look(f) < count; i = (i + 1) % looks)
            there = i != looks - 1 || !*given_up;
    return __shfl_sync(~0u, there, 0);
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

/* A block's part in a sum: its units of y, and where they go to and come from. */
template <bool DENSE> struct exchange {
    units_of<DENSE> y;
    uint32_t first, end;
    uint64_t base; /* of the turn's flags */
    uint4 *outbox;
    const uint4 *inbox;
    flag *to;
    const flag *from;
    volatile uint32_t *sent; /* shared: [role_warps] tiles of which a warp has sent its units */
};

/* thread: of those with the same role. */
template <bool DENSE> __device__ void send(const exchange<DENSE> &x, int thread)
{
    uint32_t tiles = 0;
    for (uint32_t first = x.first + thread; first - thread < x.end; first += tile) {
        uint4 unit[units_a_thread];
#pragma unroll
        for (int k = 0; k < units_a_thread; k++)
            if (first + k * role_threads < x.end)
                unit[k] = *x.y.at(first + k * role_threads);
#pragma unroll
        for (int k = 0; k < units_a_thread; k++)
            if (first + k * role_threads < x.end)
                x.outbox[first + k * role_threads] = unit[k];
        __syncwarp();
        __threadfence_block();
        tiles++;
        if (thread % 32 == 0)
            x.sent[thread / 32] = tiles;
    }
}

/* One warp. What the others of its block have sent before it looked has arrived before the flag does. */
template <bool DENSE> __device__ void raise_flags(const exchange<DENSE> &x, int lane)
{
    uint32_t tiles = 0;
    for (uint32_t first = x.first; first < x.end; first += tile) {
        tiles++;
        while (__any_sync(~0u, lane < role_warps && x.sent[lane] < tiles)) {
        }
        __threadfence_block();
        if (lane == 0)
            raise(x.to, x.base + tiles);
        __syncwarp();
    }
}

/* What has come is read past the first cache, which knows nothing of other devices. A sum takes the place of what this
 * block's sender of the same units has read. */
template <typename T, bool DENSE> __device__ void add(const exchange<DENSE> &x, int thread, const volatile int *given_up)
{
    constexpr int V = 16 / sizeof(T);
    uint32_t tiles = 0;
    for (uint32_t first = x.first + thread; first - thread < x.end; first += tile) {
        tiles++;
        if (!wait_for(x.from, x.base + tiles, given_up))
            return;
        while (x.sent[thread / 32] < tiles) {
        }
        __threadfence_block();
#pragma unroll
        for (int k = 0; k < units_a_thread; k++) {
            const uint32_t i = first + k * role_threads;
            if (i >= x.end)
                continue;
            const uint4 came = __ldcg(x.inbox + i);
            float sum[V], more[V];
            T *to = reinterpret_cast<T *>(x.y.at(i));
            load_floats<T, V>(sum, to);
            load_floats<T, V>(more, reinterpret_cast<const T *>(&came));
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[j] += more[j];
            store_floats<T, V>(to, sum);
        }
        __syncwarp();
    }
}

/* A block has `share` units. */
template <typename T, bool DENSE>
__global__ void __launch_bounds__(exchange_threads, KS_CUDA_EXCHANGE_BLOCKS_EACH)
    sum_with_other(units_of<DENSE> y, uint32_t share, exchange_memory *own, exchange_memory *other, turns *t,
                   const volatile int *given_up)
{
    __shared__ volatile uint32_t sent[role_warps];
    const uint64_t turn = t->turn + 1;
    const int side = static_cast<int>(turn & 1), thread = static_cast<int>(threadIdx.x);
    const uint32_t first = blockIdx.x * share;
    const exchange<DENSE> x = {y, first, min(first + share, y.count), turn << turn_bits, other->inbox[side], own->inbox[side],
                               &other->sent[side][blockIdx.x], &own->sent[side][blockIdx.x], sent};
    if (thread < role_warps)
        sent[thread] = 0;
    __syncthreads(); /* and all have read the turn before any block can end it */
    if (thread < role_threads)
        send(x, thread);
    else if (thread < 2 * role_threads)
        add<T>(x, thread - role_threads, given_up);
    else
        raise_flags(x, thread - 2 * role_threads);
    if (thread == 0 && atomicAdd(&t->ended, 1) == gridDim.x - 1) {
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
