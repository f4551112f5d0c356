/* Linear layers: which tiles run for which shape.
 *
 * Work: 2 * tokens * in * out operations; bytes: x and w once, y (and the residual) once. With in
 * and out from 320 on the operations decide: 990 TFLOP/s dense by the vendor's sheet, at clocks that
 * 700 W do not allow. On an H100 at 16 rows (bench_gemm_gpu fp16 16, 2026-11-25):
 *
 *   tokens x in > out              floor      measured   share
 *   16384 x 1280 > 3840            0.163 ms   0.227 ms   72 %
 *   16384 x 1280 > 1280            0.054 ms   0.094 ms   57 %
 *   16384 x 1280 > 2 x 5120 GEGLU  0.434 ms   0.634 ms   68 %
 *   16384 x 5120 > 1280            0.217 ms   0.313 ms   69 %
 *   65536 x 640 > 2 x 2560 GEGLU   0.434 ms   0.805 ms   54 %
 */
#include "gemm.h"

#include "gemm_wgmma.cuh"

namespace {

typedef void (*gemm_function)(ks_gemm_job);

struct gemm_kernel {
    const char *name;
    int rows, columns;
    size_t shared;
    gemm_function half[2], bfloat16[2]; /* plain, gated */
};

template <int ROWS, int COLUMNS, int STAGES> constexpr gemm_kernel row(const char *name)
{
    using plan = ks_gemm_plan<ROWS, COLUMNS, STAGES>;
    return {name,
            ROWS,
            COLUMNS,
            plan::shared,
            {ks_gemm_hopper<__half, plan, false>, ks_gemm_hopper<__half, plan, true>},
            {ks_gemm_hopper<__nv_bfloat16, plan, false>, ks_gemm_hopper<__nv_bfloat16, plan, true>}};
}

/* Largest first. */
const gemm_kernel kernels[] = {
    row<128, 160, 6>("128x160"),
    row<64, 160, 8>("64x160"),
    row<64, 96, 8>("64x96"),
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

gemm_function function_of(const gemm_kernel &kernel, ks_dtype type, bool gated)
{
    return type == KS_F16 ? kernel.half[gated] : kernel.bfloat16[gated];
}

int tokens_of(ks_act a)
{
    return (int)((int64_t)a.n * a.h * a.w);
}

int up(int a, int b)
{
    return (a + b - 1) / b;
}

/* Blocks of 64 x 32 products that the busiest multiprocessor makes, and two more for what a tile
 * costs beside them: what the time goes with. */
int64_t share_of(const gemm_kernel &kernel, int tokens, int columns)
{
    const int64_t tiles = (int64_t)up(tokens, kernel.rows) * up(columns, kernel.columns);
    const int64_t places = ks_multiprocessors();
    return (tiles + places - 1) / places * ((kernel.rows / 64) * (kernel.columns / 32) + 2);
}

const gemm_kernel &kernel_for(int tokens, int columns)
{
    const gemm_kernel *best = &kernels[0];
    for (const gemm_kernel &kernel : kernels)
        if (share_of(kernel, tokens, columns) < share_of(*best, tokens, columns))
            best = &kernel;
    return *best;
}

/* A [rows][columns] matrix of which 64 columns of `box` rows are copied at a time; a CUresult. */
int matrix_map(CUtensorMap *map, ks_dtype type, const void *data, int64_t rows, int columns,
               int64_t stride, int box)
{
    const auto encode = ks_map_encoder();
    if (!encode)
        return (int)CUDA_ERROR_NOT_SUPPORTED;
    const cuuint64_t size[2] = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t bytes[1] = {2 * (cuuint64_t)stride};
    const cuuint32_t boxes[2] = {KS_GEMM_DEPTH, (cuuint32_t)box}, step[2] = {1, 1};
    return (int)encode(map,
                       type == KS_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                      : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                       2, const_cast<void *>(data), size, bytes, boxes, step,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

bool on_vectors(ks_act a)
{
    return !a.data || (reinterpret_cast<uintptr_t>(a.data) % 16 == 0 && a.stride % 8 == 0);
}

int run(const gemm_kernel &kernel, void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
        const ks_cuda_gemm_epilogue *after)
{
    const int columns = after->gated ? 2 * y.c : y.c;
    ks_gemm_job job = {};
    if (matrix_map(&job.x, type, x.data, tokens_of(x), x.c, x.stride, kernel.rows) != CUDA_SUCCESS ||
        matrix_map(&job.w, type, w, columns, x.c, x.c, kernel.columns) != CUDA_SUCCESS)
        return (int)cudaErrorInvalidValue;
    job.y = y.data, job.y_stride = y.stride;
    job.residual = after->residual.data, job.residual_stride = after->residual.stride;
    job.bias = after->bias, job.sums = after->sums;
    job.moments = reinterpret_cast<const float2 *>(after->moments);
    job.tokens = tokens_of(x), job.columns = columns;
    job.steps = up(x.c, KS_GEMM_DEPTH);
    job.down = up(job.tokens, kernel.rows);
    job.across = up(columns, kernel.columns);
    const int tiles = job.down * job.across, places = ks_multiprocessors();
    return ks_launch(function_of(kernel, type, after->gated),
                     dim3((unsigned)(tiles < places ? tiles : places)), KS_GEMM_THREADS,
                     kernel.shared, stream, job);
}

bool sound(ks_dtype type, ks_act y, ks_act x, const ks_cuda_gemm_epilogue *after)
{
    const bool gated = after->gated;
    const ks_act residual = after->residual;
    return (type == KS_F16 || type == KS_BF16) && tokens_of(y) == tokens_of(x) && x.c % 8 == 0 &&
           y.c % (gated ? 16 : 32) == 0 && on_vectors(x) && on_vectors(y) && on_vectors(residual) &&
           !(gated && residual.data) && !after->sums == !after->moments &&
           (int64_t)x.n * x.h * x.w <= INT_MAX / 2;
}

/* The layer's output that stands at a place of a packed weight: what ks_gemm_finish relies on. */
__device__ __forceinline__ int output_at(int place, int out, bool gated)
{
    const int block = place / 8 % 4, part = place % 8 / 2, odd = place % 2;
    if (gated)
        return place / 32 * 16 + part * 4 + block % 2 * 2 + odd + block / 2 * (out / 2);
    return place / 32 * 32 + part * 8 + block * 2 + odd;
}

/* A thread for 8 terms of an output. */
__global__ void pack_outputs(uint4 *to, const uint4 *from, int out, int units, bool gated)
{
    const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (int64_t)out * units)
        return;
    const int place = (int)(i / units), unit = (int)(i - (int64_t)place * units);
    to[i] = from[(int64_t)output_at(place, out, gated) * units + unit];
}

/* A warp for an output. */
template <class T>
__global__ void fold_norm(T *w, float *bias, float *sums, const float *gamma, const float *beta,
                          int out, int in, bool gated)
{
    const int place = (int)((blockIdx.x * blockDim.x + threadIdx.x) / 32), lane = threadIdx.x % 32;
    if (place >= out)
        return;
    T *row = w + (int64_t)place * in;
    float shift = 0.0f, sum = 0.0f;
    for (int k = lane; k < in; k += 32) {
        const float value = ks::to_float(row[k]);
        row[k] = ks::from_float<T>(value * gamma[k]);
        shift = fmaf(value, beta[k], shift);
        sum += ks::to_float(row[k]);
    }
    for (int apart = 16; apart; apart /= 2) {
        shift += __shfl_xor_sync(0xffffffffu, shift, apart);
        sum += __shfl_xor_sync(0xffffffffu, sum, apart);
    }
    if (lane == 0) {
        const int output = output_at(place, out, gated);
        bias[output] += shift;
        sums[output] = sum;
    }
}

} // namespace

bool ks_cuda_gemm_fits(ks_dtype type, int in, int out)
{
    return (type == KS_F16 || type == KS_BF16) && in % 8 == 0 && out % 32 == 0 &&
           ks_runs_here(function_of(kernels[0], type, false), KS_GEMM_THREADS);
}

int ks_cuda_gemm_pack(void *stream, void *to, const void *from, int out, int in, bool gated)
{
    constexpr int threads = 256;
    const int64_t units = (int64_t)out * in / 8;
    if (out % 32 != 0 || in % 8 != 0 || units > (int64_t)INT_MAX * threads)
        return (int)cudaErrorInvalidValue;
    pack_outputs<<<(unsigned)((units + threads - 1) / threads), threads, 0,
                   static_cast<cudaStream_t>(stream)>>>(static_cast<uint4 *>(to),
                                                        static_cast<const uint4 *>(from), out,
                                                        in / 8, gated);
    return (int)cudaGetLastError();
}

int ks_cuda_gemm_fold(void *stream, ks_dtype type, void *w, float *bias, float *sums,
                      const float *gamma, const float *beta, int out, int in, bool gated)
{
    constexpr int threads = 256;
    const unsigned blocks = (unsigned)up(out, threads / 32);
    const cudaStream_t to = static_cast<cudaStream_t>(stream);
    if (type == KS_F16)
        fold_norm<<<blocks, threads, 0, to>>>(static_cast<__half *>(w), bias, sums, gamma, beta,
                                              out, in, gated);
    else if (type == KS_BF16)
        fold_norm<<<blocks, threads, 0, to>>>(static_cast<__nv_bfloat16 *>(w), bias, sums, gamma,
                                              beta, out, in, gated);
    else
        return (int)cudaErrorInvalidValue;
    return (int)cudaGetLastError();
}

int ks_cuda_gemm(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                 const ks_cuda_gemm_epilogue *after)
{
    if (!sound(type, y, x, after))
        return (int)cudaErrorInvalidValue;
    if (tokens_of(x) == 0)
        return (int)cudaSuccess;
    return run(kernel_for(tokens_of(x), after->gated ? 2 * y.c : y.c), stream, type, y, x, w,
               after);
}

int ks_cuda_gemm_kernels(void)
{
    return KERNELS;
}

int ks_cuda_gemm_by(int kernel, const char **name, void *stream, ks_dtype type, ks_act y, ks_act x,
                    const void *w, const ks_cuda_gemm_epilogue *after)
{
    if (kernel < 0 || kernel >= KERNELS || !sound(type, y, x, after))
        return (int)cudaErrorInvalidValue;
    *name = kernels[kernel].name;
    return run(kernels[kernel], stream, type, y, x, w, after);
}
