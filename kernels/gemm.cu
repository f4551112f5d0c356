/* Linear layers and convolutions: which tiles run for which shape.
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
 *
 * Convolutions of 3 x 3, with a residual or a row bias but for the upsampling one (bench_conv_gpu
 * fp16, same day):
 *
 *   16 x 128 x 128 x 320 > 320     0.488 ms   0.664 ms   74 %
 *   16 x 64 x 64 x 640 > 640       0.488 ms   0.711 ms   69 %
 *   16 x 32 x 32 x 1280 > 1280     0.488 ms   0.663 ms   74 %
 *   16 x 64 x 64 x 1920 > 640      1.464 ms   2.361 ms   62 %
 *   16 x 64 x 64 x 640 > 640 up    0.868 ms   1.276 ms   68 % (floor: of its four ninths)
 */
#include "gemm.h"

#include "gemm_wgmma.cuh"

namespace {

typedef void (*gemm_function)(ks_gemm_job);

struct gemm_kernel {
    const char *name;
    int rows, columns;
    double cost; /* of a stage of a tile, in about 35 ns, measured with the whole chip at work */
    size_t shared;
    gemm_function half[3], bfloat16[3]; /* by ks_gemm_kind */
    gemm_function join_half, join_bfloat16;
};

template <int ROWS, int COLUMNS, int STAGES>
constexpr gemm_kernel row(const char *name, double cost)
{
    using plan = ks_gemm_plan<ROWS, COLUMNS, STAGES>;
    return {name,
            ROWS,
            COLUMNS,
            cost,
            plan::shared,
            {ks_gemm_hopper<__half, plan, KS_GEMM_PLAIN>,
             ks_gemm_hopper<__half, plan, KS_GEMM_GATED>,
             ks_gemm_hopper<__half, plan, KS_GEMM_WINDOWS>},
            {ks_gemm_hopper<__nv_bfloat16, plan, KS_GEMM_PLAIN>,
             ks_gemm_hopper<__nv_bfloat16, plan, KS_GEMM_GATED>,
             ks_gemm_hopper<__nv_bfloat16, plan, KS_GEMM_WINDOWS>},
            ks_gemm_join<__half, plan>,
            ks_gemm_join<__nv_bfloat16, plan>};
}

/* Largest first. */
const gemm_kernel kernels[] = {
    row<128, 160, 6>("128x160", 12),
    row<128, 128, 6>("128x128", 10.5), /* for the VAE's powers of two */
    row<64, 160, 7>("64x160", 8),
    row<64, 96, 8>("64x96", 6),
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

/* A product that is asked for. */
struct product {
    ks_gemm_kind kind;
    int tokens, columns, phases; /* tokens and columns: of a phase */
    int steps;                   /* stages that all terms fill */
};

gemm_function function_of(const gemm_kernel &kernel, ks_dtype type, ks_gemm_kind kind)
{
    return type == KS_F16 ? kernel.half[kind] : kernel.bfloat16[kind];
}

int tokens_of(ks_act a)
{
    return (int)((int64_t)a.n * a.h * a.w);
}

int up(int a, int b)
{
    return (a + b - 1) / b;
}

/* --- which kernel, and how many parts --- */

int64_t tiles_of(const gemm_kernel &kernel, const product &p)
{
    return (int64_t)up(p.tokens, kernel.rows) * up(p.columns, kernel.columns) * p.phases;
}

/* What a stage of all tiles of so many parts costs the busiest multiprocessor. */
double share_of(const gemm_kernel &kernel, const product &p, int parts, int places)
{
    const int64_t tiles = tiles_of(kernel, p) * parts;
    return (double)((tiles + places - 1) / places) * kernel.cost;
}

const gemm_kernel &kernel_for(const product &p, int parts, int places)
{
    const gemm_kernel *best = &kernels[0];
    for (const gemm_kernel &kernel : kernels)
        if (share_of(kernel, p, parts, places) < share_of(*best, p, parts, places))
            best = &kernel;
    return *best;
}

/* What a product in so many parts costs by its best kernel, in the same unit: the sums, but at least
 * as long as w takes from memory at 3 TB/s; and for several parts 3 us to start the second kernel, and
 * 4 bytes a part and output each way at 4 TB/s. */
double cost_of(const product &p, int parts, int places)
{
    constexpr double us = 1e-6 / 35e-9, w_byte = 1 / (3e6 / us), sum_byte = 1 / (4e6 / us);
    const double columns = (double)p.columns * p.phases;
    const double least = 2 * columns * p.steps * KS_GEMM_DEPTH * w_byte;
    const double sums = p.steps / parts * share_of(kernel_for(p, parts, places), p, parts, places);
    const double longer = sums > least ? sums : least;
    return parts == 1 ? longer : longer + 3 * us + 8.0 * parts * p.tokens * columns * sum_byte;
}

/* Into how many equal parts the terms are cut: by the shape alone, on a chip of SXM size whatever
 * this one has, so that a shape's sums have one order everywhere. Where a tenth is all that it would
 * bring, the terms stay together. */
int parts_of(const product &p)
{
    constexpr int places = 132, most = 16, least_steps = 8;
    int best = 1;
    double least = 0.9 * cost_of(p, 1, places);
    for (int parts = 2; p.kind != KS_GEMM_GATED && parts <= most; parts++) {
        if (p.steps % parts != 0 || p.steps / parts < least_steps)
            continue;
        const double cost = cost_of(p, parts, places);
        if (cost < least) {
            best = parts;
            least = cost;
        }
    }
    return best;
}

/* --- tensor maps; CUresults --- */

CUtensorMapDataType element_of(ks_dtype type)
{
    return type == KS_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
}

/* A [rows][columns] matrix of which 64 columns of `box` rows are copied at a time. */
int matrix_map(CUtensorMap *map, ks_dtype type, const void *data, int64_t rows, int columns,
               int64_t stride, int box)
{
    const auto encode = ks_map_encoder();
    if (!encode)
        return (int)CUDA_ERROR_NOT_SUPPORTED;
    const cuuint64_t size[2] = {(cuuint64_t)columns, (cuuint64_t)rows};
    const cuuint64_t bytes[1] = {2 * (cuuint64_t)stride};
    const cuuint32_t boxes[2] = {KS_GEMM_DEPTH, (cuuint32_t)box}, step[2] = {1, 1};
    return (int)encode(map, element_of(type), 2, const_cast<void *>(data), size, bytes, boxes, step,
                       CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

/* Pictures of which 64 channels of one tap of `box` windows in a row are copied at a time. The
 * corners say where windows may begin: from -pad to where the last tap is `pad` beyond the end. (So
 * it is for the phases of an upsampled picture: their windows are parts of these.) */
int window_map(CUtensorMap *map, ks_dtype type, ks_act x, const ks_cuda_window *window, int box)
{
    const auto encode = ks_patch_map_encoder();
    if (!encode)
        return (int)CUDA_ERROR_NOT_SUPPORTED;
    const cuuint64_t size[4] = {(cuuint64_t)x.c, (cuuint64_t)x.w, (cuuint64_t)x.h, (cuuint64_t)x.n};
    const cuuint64_t pixel = 2 * (cuuint64_t)x.stride;
    const cuuint64_t bytes[3] = {pixel, pixel * size[1], pixel * size[1] * size[2]};
    const int low[2] = {-window->pad, -window->pad};
    const int high[2] = {window->pad - window->kw + 1, window->pad - window->kh + 1};
    const cuuint32_t stride = (cuuint32_t)window->stride, step[4] = {1, stride, stride, 1};
    return (int)encode(map, element_of(type), 4, x.data, size, bytes, low, high, KS_GEMM_DEPTH,
                       (cuuint32_t)box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                       CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                       CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

/* --- jobs --- */

bool on_vectors(ks_act a)
{
    return !a.data || (reinterpret_cast<uintptr_t>(a.data) % 16 == 0 && a.stride % 8 == 0);
}

bool sound(ks_dtype type, ks_act y, ks_act x, const ks_cuda_gemm_epilogue *after)
{
    const bool gated = after->gated;
    return (type == KS_F16 || type == KS_BF16) && x.c % 8 == 0 && y.c % (gated ? 16 : 32) == 0 &&
           on_vectors(x) && on_vectors(y) && on_vectors(after->residual) &&
           on_vectors(after->row_bias) && !(gated && after->residual.data) &&
           !after->sums == !after->moments && (int64_t)y.n * y.h * y.w <= INT_MAX / 2;
}

bool linear_sound(ks_dtype type, ks_act y, ks_act x, const ks_cuda_gemm_epilogue *after)
{
    return sound(type, y, x, after) && tokens_of(y) == tokens_of(x) && !after->row_bias.data;
}

bool conv_sound(ks_dtype type, ks_act y, ks_act x, const ks_cuda_window *window,
                const ks_cuda_gemm_epilogue *after)
{
    constexpr int largest = 64, longest = 8; /* what a map of windows takes */
    const int scale = window->upsample ? 2 : 1;
    const bool usual = window->kh == 3 && window->kw == 3 && window->pad == 1 && window->stride == 1;
    return sound(type, y, x, after) && !after->gated && !after->sums && x.n == y.n &&
           window->height == scale * x.h && window->width == scale * x.w && window->kh <= largest &&
           window->kw <= largest && window->pad <= largest && window->stride <= longest &&
           (!window->upsample || (usual && y.h == 2 * x.h && y.w == 2 * x.w));
}

/* A job but for x and what describes a convolution's windows. */
ks_gemm_job job_of(const product &p, ks_act y, const ks_cuda_gemm_epilogue *after, int parts,
                   void *workspace)
{
    ks_gemm_job job = {};
    job.y = y.data, job.y_stride = y.stride;
    job.residual = after->residual.data, job.residual_stride = after->residual.stride;
    job.row_bias = after->row_bias.data, job.row_bias_stride = after->row_bias.stride;
    job.bias = after->bias, job.sums = after->sums;
    job.moments = reinterpret_cast<const float2 *>(after->moments);
    job.partial = static_cast<float4 *>(workspace);
    job.tokens = p.tokens, job.columns = p.columns, job.phases = p.phases;
    job.parts = parts, job.steps = p.steps / parts;
    return job;
}

int join(const gemm_kernel &kernel, void *stream, ks_dtype type, const ks_gemm_job &job)
{
    const int tiles = job.down * job.across * job.phases;
    const int blocks = tiles * (kernel.rows * kernel.columns / (128 * 8));
    return ks_launch(type == KS_F16 ? kernel.join_half : kernel.join_bfloat16,
                     dim3((unsigned)blocks), 128, 0, stream, job);
}

int launch(const gemm_kernel &kernel, void *stream, ks_dtype type, ks_gemm_kind kind,
           ks_gemm_job &job)
{
    job.down = up(job.tokens, kernel.rows);
    job.across = up(job.columns, kernel.columns);
    const int tiles = job.down * job.across * job.phases * job.parts, places = ks_multiprocessors();
    const int failed = ks_launch(function_of(kernel, type, kind),
                                 dim3((unsigned)(tiles < places ? tiles : places)),
                                 KS_GEMM_THREADS, kernel.shared, stream, job);
    return failed || job.parts == 1 ? failed : join(kernel, stream, type, job);
}

int run_linear(const gemm_kernel &kernel, const product &p, int parts, void *stream, ks_dtype type,
               ks_act y, ks_act x, const void *w, const ks_cuda_gemm_epilogue *after,
               void *workspace)
{
    ks_gemm_job job = job_of(p, y, after, parts, workspace);
    if (matrix_map(&job.x, type, x.data, p.tokens, x.c, x.stride, kernel.rows) != CUDA_SUCCESS ||
        matrix_map(&job.w, type, w, p.columns, x.c, x.c, kernel.columns) != CUDA_SUCCESS)
        return (int)cudaErrorInvalidValue;
    return launch(kernel, stream, type, p.kind, job);
}

int run_conv(const gemm_kernel &kernel, const product &p, int parts, void *stream, ks_dtype type,
             ks_act y, ks_act x, const void *w, const ks_cuda_window *window,
             const ks_cuda_gemm_epilogue *after, void *workspace)
{
    const bool upsample = window->upsample;
    const int terms = (upsample ? 4 : window->kh * window->kw) * x.c, rows = p.phases * p.columns;
    ks_gemm_job job = job_of(p, y, after, parts, workspace);
    job.windows = {upsample ? x.w : y.w, upsample ? x.h * x.w : y.h * y.w, window->stride,
                   window->pad, upsample ? 2 : window->kw, terms / x.c, x.c};
    if (window_map(&job.x, type, x, window, kernel.rows) != CUDA_SUCCESS ||
        matrix_map(&job.w, type, w, rows, terms, terms, kernel.columns) != CUDA_SUCCESS)
        return (int)cudaErrorInvalidValue;
    return launch(kernel, stream, type, p.kind, job);
}

product linear_product(ks_act y, int in, bool gated)
{
    return {gated ? KS_GEMM_GATED : KS_GEMM_PLAIN, tokens_of(y), gated ? 2 * y.c : y.c, 1,
            up(in, KS_GEMM_DEPTH)};
}

product conv_product(ks_act y, const ks_cuda_window *window, int in)
{
    const int phases = window->upsample ? 4 : 1, taps = window->kh * window->kw;
    return {KS_GEMM_WINDOWS, tokens_of(y) / phases, y.c, phases,
            (window->upsample ? 4 : taps) * up(in, KS_GEMM_DEPTH)};
}

/* Bytes of the parts' sums. */
size_t workspace_of(const gemm_kernel &kernel, const product &p, int parts)
{
    const size_t sums = (size_t)tiles_of(kernel, p) * (size_t)(kernel.rows * kernel.columns);
    return parts == 1 ? 0 : (size_t)parts * sums * sizeof(float);
}

size_t workspace_of(const product &p)
{
    const int parts = parts_of(p);
    return workspace_of(kernel_for(p, parts, ks_multiprocessors()), p, parts);
}

bool can_run(int kernel, const product &p, int parts, const void *workspace)
{
    return kernel >= 0 && kernel < KERNELS && parts > 0 && p.steps % parts == 0 &&
           (parts == 1 || (workspace && p.kind != KS_GEMM_GATED));
}

} // namespace

bool ks_cuda_gemm_fits(ks_dtype type, int in, int out)
{
    return (type == KS_F16 || type == KS_BF16) && in % 8 == 0 && out % 32 == 0 &&
           ks_runs_here(function_of(kernels[0], type, KS_GEMM_PLAIN), KS_GEMM_THREADS);
}

bool ks_cuda_gemm_fits_conv(ks_dtype type, int kh, int kw, int in, int out)
{
    return kh == 3 && kw == 3 && in >= KS_GEMM_DEPTH && ks_cuda_gemm_fits(type, in, out) &&
           ks_patch_map_encoder();
}

size_t ks_cuda_gemm_workspace(ks_act y, int in, bool gated)
{
    return workspace_of(linear_product(y, in, gated));
}

int ks_cuda_gemm(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                 const ks_cuda_gemm_epilogue *after, void *workspace)
{
    const product p = linear_product(y, x.c, after->gated);
    const int parts = parts_of(p);
    if (!linear_sound(type, y, x, after) || (parts > 1 && !workspace))
        return (int)cudaErrorInvalidValue;
    return p.tokens == 0 ? (int)cudaSuccess
                         : run_linear(kernel_for(p, parts, ks_multiprocessors()), p, parts, stream,
                                      type, y, x, w, after, workspace);
}

size_t ks_cuda_gemm_conv_workspace(ks_act y, const ks_cuda_window *window, int in)
{
    return workspace_of(conv_product(y, window, in));
}

int ks_cuda_gemm_conv(void *stream, ks_dtype type, ks_act y, ks_act x, const void *w,
                      const ks_cuda_window *window, const ks_cuda_gemm_epilogue *after,
                      void *workspace)
{
    const product p = conv_product(y, window, x.c);
    const int parts = parts_of(p);
    if (!conv_sound(type, y, x, window, after) || (parts > 1 && !workspace))
        return (int)cudaErrorInvalidValue;
    return p.tokens == 0 ? (int)cudaSuccess
                         : run_conv(kernel_for(p, parts, ks_multiprocessors()), p, parts, stream,
                                    type, y, x, w, window, after, workspace);
}

int ks_cuda_gemm_kernels(void)
{
    return KERNELS;
}

size_t ks_cuda_gemm_conv_workspace_by(int kernel, int parts, ks_act y, const ks_cuda_window *window,
                                      int in)
{
    return workspace_of(kernels[kernel], conv_product(y, window, in), parts);
}

const char *ks_cuda_gemm_name(int kernel)
{
    return kernels[kernel].name;
}

int ks_cuda_gemm_by(int kernel, int parts, void *stream, ks_dtype type, ks_act y, ks_act x,
                    const void *w, const ks_cuda_gemm_epilogue *after, void *workspace)
{
    const product p = linear_product(y, x.c, after->gated);
    if (!can_run(kernel, p, parts, workspace) || !linear_sound(type, y, x, after))
        return (int)cudaErrorInvalidValue;
    return run_linear(kernels[kernel], p, parts, stream, type, y, x, w, after, workspace);
}

int ks_cuda_gemm_conv_by(int kernel, int parts, void *stream, ks_dtype type, ks_act y, ks_act x,
                         const void *w, const ks_cuda_window *window,
                         const ks_cuda_gemm_epilogue *after, void *workspace)
{
    const product p = conv_product(y, window, x.c);
    if (!can_run(kernel, p, parts, workspace) || !conv_sound(type, y, x, window, after))
        return (int)cudaErrorInvalidValue;
    return run_conv(kernels[kernel], p, parts, stream, type, y, x, w, window, after, workspace);
}
