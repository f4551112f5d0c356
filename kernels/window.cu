#include "kernels/window.h"

#include "kernels/grid.cuh"
#include "kernels/types.cuh"

namespace {

using namespace ks;

__global__ void crop(float *out, const float *x, int height, int width, ks_window at, int64_t count)
{
    for (int64_t i = first_index(); i < count; i += index_step()) {
        const int64_t line = i / at.w, channel = line / at.h;
        const int64_t from = channel * height + at.y + (line - channel * at.h);
        out[i] = x[from * width + at.x + (i - line * at.w)];
    }
}

__global__ void blend(ks_blend_op op, int64_t count)
{
    for (int64_t i = first_index(); i < count; i += index_step()) {
        const int64_t all_lines = i / op.width, channel = all_lines / op.height;
        const int y = static_cast<int>(all_lines - channel * op.height);
        const int x = static_cast<int>(i - all_lines * op.width);
        const double here = static_cast<double>(op.x[i]);
        double sum = 0.0, total = 1e-37;
        for (int k = 0; k < op.parts; k++) {
            const ks_blend_part p = op.part[k];
            const int line = y - p.at.y, cell = x - p.at.x;
            if (line < 0 || line >= p.at.h || cell < 0 || cell >= p.at.w)
                continue;
            const int64_t place = static_cast<int64_t>(line) * p.at.w + cell;
            const double weight = p.map ? p.scale * static_cast<double>(p.map[place]) : p.scale;
            const double in = static_cast<double>(p.in[channel * p.at.h * p.at.w + place]);
            sum += weight * (op.x_coef * here + op.in_coef * in);
            total += weight;
        }
        op.out[i] = static_cast<float>(sum / total);
    }
}

__global__ void inpaint(ks_inpaint_op op, int64_t count)
{
    for (int64_t i = first_index(); i < count; i += index_step()) {
        const double m = static_cast<double>(op.mask[i % op.cells]);
        double kept = 0.0;
        for (int t = 0; t < op.terms; t++)
            kept += op.coef[t] * static_cast<double>(op.in[t][i]);
        op.out[i] = static_cast<float>(m * static_cast<double>(op.x[i]) + (1.0 - m) * kept);
    }
}

} // namespace

int ks_cuda_crop(void *stream, float *out, const float *x, int channels, int height, int width,
                 ks_window at)
{
    const int64_t count = static_cast<int64_t>(channels) * at.h * at.w;
    if (count > 0)
        crop<<<blocks_for(count), threads, 0, stream_of(stream)>>>(out, x, height, width, at,
                                                                   count);
    return cudaGetLastError();
}

int ks_cuda_blend(void *stream, const ks_blend_op *op)
{
    const int64_t count = static_cast<int64_t>(op->channels) * op->height * op->width;
    if (count > 0)
        blend<<<blocks_for(count), threads, 0, stream_of(stream)>>>(*op, count);
    return cudaGetLastError();
}

int ks_cuda_inpaint(void *stream, const ks_inpaint_op *op)
{
    const int64_t count = op->channels * op->cells;
    if (count > 0)
        inpaint<<<blocks_for(count), threads, 0, stream_of(stream)>>>(*op, count);
    return cudaGetLastError();
}
