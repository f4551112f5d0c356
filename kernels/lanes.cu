#include "kernels/lanes.h"

#include "kernels/types.cuh"

namespace {

using namespace ks;

constexpr int threads = 256;

/* An element of every operation of a chain belongs to one thread, so what one operation writes the
 * next one reads back without a barrier. */
__global__ void lincomb(const ks_lincomb_op *ops, const ks_cuda_chain *chains)
{
    const ks_cuda_chain chain = chains[blockIdx.y];
    const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < chain.n;
         i += step)
        for (int k = chain.first; k < chain.first + chain.count; k++) {
            const ks_lincomb_op &op = ops[k];
            if (i >= op.n)
                continue;
            double sum = 0.0;
            for (int t = 0; t < op.terms; t++)
                sum += op.coef[t] * static_cast<double>(op.in[t][i]);
            op.out[i] = static_cast<float>(sum);
        }
}

/* The block's values combined by a fixed tree; thread 0 has the result. */
template <typename V, typename F> __device__ V block_reduce(V value, F combine)
{
    __shared__ V shared[threads];
    shared[threadIdx.x] = value;
    __syncthreads();
    for (int width = threads / 2; width > 0; width /= 2) {
        if (threadIdx.x < width)
            shared[threadIdx.x] = combine(shared[threadIdx.x], shared[threadIdx.x + width]);
        __syncthreads();
    }
    return shared[0];
}

struct plus {
    __device__ double operator()(double a, double b) const { return a + b; }
};

struct both {
    __device__ int32_t operator()(int32_t a, int32_t b) const { return a & b; }
};

__global__ void error_parts(double *parts, const float *a, const float *b, const float *c,
                            int64_t n, double atol, double rtol)
{
    double sum = 0.0;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < n;
         i += static_cast<int64_t>(KS_CUDA_PARTS) * threads) {
        const double size = fmax(fabs(static_cast<double>(b[i])), fabs(static_cast<double>(c[i])));
        const double ratio = static_cast<double>(a[i]) / fmax(atol, rtol * size);
        sum += ratio * ratio;
    }
    sum = block_reduce(sum, plus());
    if (threadIdx.x == 0)
        parts[blockIdx.x] = sum;
}

__global__ void error_mean(double *out, const double *parts, int64_t n)
{
    const double sum = block_reduce(parts[threadIdx.x], plus());
    if (threadIdx.x == 0)
        *out = sum / static_cast<double>(n);
}

__global__ void finite_parts(int32_t *parts, const float *a, int64_t n)
{
    int32_t good = 1;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x; i < n;
         i += static_cast<int64_t>(KS_CUDA_PARTS) * threads)
        good &= (__float_as_uint(a[i]) & 0x7f800000u) != 0x7f800000u;
    good = block_reduce(good, both());
    if (threadIdx.x == 0)
        parts[blockIdx.x] = good;
}

__global__ void finite_all(int32_t *out, const int32_t *parts)
{
    const int32_t good = block_reduce(parts[threadIdx.x], both());
    if (threadIdx.x == 0)
        *out = good;
}

static_assert(KS_CUDA_PARTS == threads, "the last block reads one part a thread");

} // namespace

int ks_cuda_lincomb(void *stream, const ks_lincomb_op *op, const ks_cuda_chain *chain, int chains,
                    int64_t longest)
{
    constexpr int64_t blocks_at_most = 1024;
    if (chains == 0 || longest == 0)
        return cudaSuccess;
    const int64_t blocks = (longest + threads - 1) / threads;
    const dim3 grid(static_cast<unsigned>(blocks < blocks_at_most ? blocks : blocks_at_most),
                    static_cast<unsigned>(chains));
    lincomb<<<grid, threads, 0, stream_of(stream)>>>(op, chain);
    return cudaGetLastError();
}

int ks_cuda_error_norm(void *stream, double *out, double *parts, const float *a, const float *b,
                       const float *c, int64_t n, double atol, double rtol)
{
    error_parts<<<KS_CUDA_PARTS, threads, 0, stream_of(stream)>>>(parts, a, b, c, n, atol, rtol);
    error_mean<<<1, threads, 0, stream_of(stream)>>>(out, parts, n);
    return cudaGetLastError();
}

int ks_cuda_all_finite(void *stream, int32_t *out, int32_t *parts, const float *a, int64_t n)
{
    finite_parts<<<KS_CUDA_PARTS, threads, 0, stream_of(stream)>>>(parts, a, n);
    finite_all<<<1, threads, 0, stream_of(stream)>>>(out, parts);
    return cudaGetLastError();
}
