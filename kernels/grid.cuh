/* Grids for loops over elements that each thread takes in strides. */
#ifndef KS_KERNELS_GRID_CUH
#define KS_KERNELS_GRID_CUH

#include <cstdint>

namespace ks {

constexpr int threads = 256;

inline unsigned blocks_for(int64_t count)
{
    constexpr int64_t at_most = 1 << 16;
    const int64_t blocks = (count + threads - 1) / threads;
    return static_cast<unsigned>(blocks < at_most ? blocks : at_most);
}

__device__ __forceinline__ int64_t first_index()
{
    return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ int64_t index_step()
{
    return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

} // namespace ks

#endif
