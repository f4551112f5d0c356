#include "kernels/parameters.h"

#include "kernels/grid.cuh"
#include "kernels/types.cuh"

namespace {

using namespace ks;

template <typename T, typename S>
__global__ void pack_parameter(T *to, const S *from, int64_t in, int64_t taps, int64_t count)
{
    for (int64_t i = first_index(); i < count; i += index_step()) {
        const int64_t out_tap = i / in, k = i - out_tap * in, out = out_tap / taps;
        to[i] = from_float<T>(to_float(from[(out * in + k) * taps + out_tap - out * taps]));
    }
}

/* A well mixed 32-bit number of a 64-bit one (the finaliser of MurmurHash3). */
__device__ __forceinline__ uint32_t mixed(uint64_t x)
{
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdull;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ull;
    return static_cast<uint32_t>(x >> 32);
}

template <typename T>
__global__ void random_rows(T *to, int rows, int64_t row, int shift, uint32_t seed)
{
    for (int64_t i = first_index(); i < rows * row; i += index_step()) {
        const int64_t r = i / row, source = (r + shift) % rows;
        const uint64_t number = static_cast<uint64_t>(source * row + i - r * row) +
                                (static_cast<uint64_t>(seed) << 40) + 1;
        to[i] = from_float<T>(static_cast<float>(mixed(number) >> 8) * 0x1p-23f - 1.0f);
    }
}

__global__ void compare_rows(int32_t *differ, const uint16_t *plain, const uint16_t *moved,
                             int rows, int64_t row, int shift)
{
    bool other = false;
    for (int64_t i = first_index(); i < rows * row; i += index_step()) {
        const int64_t r = i / row, source = (r + shift) % rows;
        other |= moved[i] != plain[source * row + i - r * row];
    }
    if (other)
        *differ = 1;
}

__global__ void probe()
{
}

template <typename T>
int pack_to(void *stream, T *to, ks_dtype source, const void *from, int64_t in, int64_t taps,
            int64_t count)
{
    const unsigned blocks = blocks_for(count);
    if (source == KS_F64)
        pack_parameter<<<blocks, threads, 0, stream_of(stream)>>>(
            to, static_cast<const double *>(from), in, taps, count);
    else
        return with_type(source, [&](auto zero) -> int {
            pack_parameter<<<blocks, threads, 0, stream_of(stream)>>>(
                to, static_cast<const decltype(zero) *>(from), in, taps, count);
            return cudaGetLastError();
        });
    return cudaGetLastError();
}

} // namespace

int ks_cuda_pack(void *stream, ks_dtype type, void *to, ks_dtype source, const void *from,
                 int64_t out, int64_t in, int64_t taps)
{
    return with_type(type, [&](auto zero) -> int {
        return pack_to(stream, static_cast<decltype(zero) *>(to), source, from, in, taps,
                       out * in * taps);
    });
}

int ks_cuda_random_rows(void *stream, ks_dtype type, void *to, int rows, int64_t row, int shift,
                        uint32_t seed)
{
    return with_type(type, [&](auto zero) -> int {
        using T = decltype(zero);
        random_rows<<<blocks_for(rows * row), threads, 0, stream_of(stream)>>>(
            static_cast<T *>(to), rows, row, shift, seed);
        return cudaGetLastError();
    });
}

int ks_cuda_compare_rows(void *stream, int32_t *differ, const void *plain, const void *moved,
                         int rows, size_t row, int shift)
{
    const int64_t units = static_cast<int64_t>(row / sizeof(uint16_t));
    compare_rows<<<blocks_for(rows * units), threads, 0, stream_of(stream)>>>(
        differ, static_cast<const uint16_t *>(plain), static_cast<const uint16_t *>(moved), rows,
        units, shift);
    return cudaGetLastError();
}

int ks_cuda_probe(void *stream)
{
    probe<<<1, 1, 0, stream_of(stream)>>>();
    return cudaGetLastError();
}
