#include "kernels/elementwise.h"

#include "kernels/types.cuh"

namespace {

using namespace ks;

/* f.run<T, V>(pixel, channel) for every pack of V channels. */
template <typename T, int V, typename F>
__global__ void each_pack(F f, uint32_t count, uint32_t packs)
{
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < count;
         i += gridDim.x * blockDim.x) {
        uint32_t pixel = i / packs;
        f.template run<T, V>(pixel, static_cast<int>(i - pixel * packs) * V);
    }
}

/* Indices are 32 bits wide: half of them are used, so that a grid's stride cannot wrap around. */
template <typename T, int V, typename F>
int launch_packs(void *stream, int64_t pixels, int c, F f)
{
    constexpr int threads = 256;
    constexpr int64_t most = INT32_MAX, blocks_at_most = 1 << 20;
    const int64_t packs = c / V, count = pixels * packs;
    if (count > most)
        return cudaErrorInvalidValue;
    if (count == 0)
        return cudaSuccess;
    const int64_t blocks = (count + threads - 1) / threads;
    const unsigned grid = static_cast<unsigned>(blocks < blocks_at_most ? blocks : blocks_at_most);
    each_pack<T, V><<<grid, threads, 0, stream_of(stream)>>>(f, static_cast<uint32_t>(count),
                                                             static_cast<uint32_t>(packs));
    return cudaGetLastError();
}

/* packed: all that f touches is packable. */
template <typename F>
int launch(void *stream, ks_dtype type, int64_t pixels, int c, bool packed, F f)
{
    return with_type(type, [&](auto zero) -> int {
        using T = decltype(zero);
        if (packed)
            return launch_packs<T, 16 / sizeof(T)>(stream, pixels, c, f);
        return launch_packs<T, 1>(stream, pixels, c, f);
    });
}

/* Channel `channel` of pixel `pixel` of a. */
template <typename T> __device__ __forceinline__ T *at(const ks_act &a, uint32_t pixel, int channel)
{
    return static_cast<T *>(a.data) + static_cast<int64_t>(pixel) * a.stride + channel;
}

struct concat_of {
    ks_act y, a, b;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        const T *from = channel < a.c ? at<T>(a, pixel, channel) : at<T>(b, pixel, channel - a.c);
        store_pack<T, V>(at<T>(y, pixel, channel), load_pack<T, V>(from));
    }
};

struct sum_of {
    ks_act y, a, b;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        float u[V], v[V];
        load_floats<T, V>(u, at<T>(a, pixel, channel));
        load_floats<T, V>(v, at<T>(b, pixel, channel));
#pragma unroll
        for (int i = 0; i < V; i++)
            u[i] += v[i];
        store_floats<T, V>(at<T>(y, pixel, channel), u);
    }
};

struct finish_of {
    ks_act y, x, row_bias, residual;
    const float *bias;
    ks_activation activation;
    uint32_t pixels; /* of a row */
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        float u[V], v[V];
        load_floats<T, V>(u, at<T>(x, pixel, channel));
        if (bias)
            for (int i = 0; i < V; i++)
                u[i] += bias[channel + i];
        if (row_bias.data) {
            load_floats<T, V>(v, at<T>(row_bias, pixel / pixels, channel));
            for (int i = 0; i < V; i++)
                u[i] += v[i];
        }
        for (int i = 0; i < V; i++)
            u[i] = activated(u[i], activation);
        if (residual.data) {
            load_floats<T, V>(v, at<T>(residual, pixel, channel));
            for (int i = 0; i < V; i++)
                u[i] += v[i];
        }
        store_floats<T, V>(at<T>(y, pixel, channel), u);
    }
};

struct gate_of {
    ks_act y, x;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        float u[V], v[V];
        load_floats<T, V>(u, at<T>(x, pixel, channel));
        load_floats<T, V>(v, at<T>(x, pixel, channel + y.c));
#pragma unroll
        for (int i = 0; i < V; i++)
            u[i] *= gelu(v[i]);
        store_floats<T, V>(at<T>(y, pixel, channel), u);
    }
};

struct upsample_of {
    ks_act y, x;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        const uint32_t w = static_cast<uint32_t>(y.w), h = static_cast<uint32_t>(y.h);
        const uint32_t line = pixel / w, column = pixel - line * w;
        const uint32_t row = line / h, y_line = line - row * h;
        const uint32_t from = (row * static_cast<uint32_t>(x.h) + y_line / 2) *
                                  static_cast<uint32_t>(x.w) + column / 2;
        store_pack<T, V>(at<T>(y, pixel, channel), load_pack<T, V>(at<T>(x, from, channel)));
    }
};

/* Frequencies and arguments are rounded to float32 at each step, as the networks were trained
 * with. */
struct sinusoids_of {
    ks_act y;
    const float *t;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        const float log_period = 9.210340371976184f; /* ln 10000 */
        const int half = y.c / 2, k = channel < half ? channel : channel - half;
        const float exponent = __fdiv_rn(__fmul_rn(-log_period, static_cast<float>(k)),
                                         static_cast<float>(half));
        const float frequency = static_cast<float>(exp(static_cast<double>(exponent)));
        const double angle = static_cast<double>(__fmul_rn(t[pixel], frequency));
        const double value = channel < half ? cos(angle) : sin(angle);
        *at<T>(y, pixel, channel) = from_float<T>(static_cast<float>(value));
    }
};

struct embedding_of {
    ks_act y;
    const int32_t *ids;
    const void *tokens, *positions;
    int count;
    uint32_t length;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        const int32_t id = ids[pixel];
        const int64_t place = static_cast<int64_t>(pixel % length) * y.c + channel;
        float value = __int_as_float(0x7fffffff); /* NaN */
        if (id >= 0 && id < count)
            value = to_float(static_cast<const T *>(tokens)[static_cast<int64_t>(id) * y.c +
                                                            channel]) +
                    to_float(static_cast<const T *>(positions)[place]);
        *at<T>(y, pixel, channel) = from_float<T>(value);
    }
};

struct from_floats_of {
    ks_act y;
    const float *x;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        *at<T>(y, pixel, channel) =
            from_float<T>(x[static_cast<int64_t>(pixel) * y.c + channel]);
    }
};

struct to_floats_of {
    ks_act x;
    float *out;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        out[static_cast<int64_t>(pixel) * x.c + channel] = to_float(*at<T>(x, pixel, channel));
    }
};

struct rgb_of {
    ks_act x;
    uint8_t *rgb;
    template <typename T, int V> __device__ void run(uint32_t pixel, int channel) const
    {
        float level = (to_float(*at<T>(x, pixel, channel)) + 1.0f) / 2.0f;
        level = level > 0.0f ? level < 1.0f ? level : 1.0f : 0.0f; /* NaN is 0 */
        rgb[static_cast<int64_t>(pixel) * x.c + channel] =
            static_cast<uint8_t>(__float2int_rn(__fmul_rn(level, 255.0f)));
    }
};

/* Latents: the "pixels" are the floats [n, C, H * W] in their own order, each of one "channel". */
struct from_latents_of {
    ks_act y;
    const float *const *x;
    const float *scale;
    uint32_t pixels;
    template <typename T, int V> __device__ void run(uint32_t index, int) const
    {
        const uint32_t c = static_cast<uint32_t>(y.c), plane = index / pixels;
        const uint32_t pixel = index - plane * pixels, row = plane / c, k = plane - row * c;
        const float value = x[row][static_cast<int64_t>(k) * pixels + pixel] * scale[row];
        *at<T>(y, row * pixels + pixel, static_cast<int>(k)) = from_float<T>(value);
    }
};

struct to_latents_of {
    ks_act x;
    float *const *out;
    uint32_t pixels;
    template <typename T, int V> __device__ void run(uint32_t index, int) const
    {
        const uint32_t c = static_cast<uint32_t>(x.c), plane = index / pixels;
        const uint32_t pixel = index - plane * pixels, row = plane / c, k = plane - row * c;
        out[row][static_cast<int64_t>(k) * pixels + pixel] =
            to_float(*at<T>(x, row * pixels + pixel, static_cast<int>(k)));
    }
};

uint32_t row_pixels(ks_act a)
{
    return static_cast<uint32_t>(a.h) * static_cast<uint32_t>(a.w);
}

} // namespace

int ks_cuda_concat(void *stream, ks_dtype type, ks_act y, ks_act a, ks_act b)
{
    const bool packed = packable(type, y) && packable(type, a) && packable(type, b);
    return launch(stream, type, pixels_of(y), y.c, packed, concat_of{y, a, b});
}

int ks_cuda_add(void *stream, ks_dtype type, ks_act y, ks_act a, ks_act b)
{
    const bool packed = packable(type, y) && packable(type, a) && packable(type, b);
    return launch(stream, type, pixels_of(y), y.c, packed, sum_of{y, a, b});
}

int ks_cuda_finish(void *stream, ks_dtype type, ks_act y, ks_act x, const float *bias,
                   ks_act row_bias, ks_activation activation, ks_act residual)
{
    const bool packed = packable(type, y) && packable(type, x) && packable(type, row_bias) &&
                        packable(type, residual);
    return launch(stream, type, pixels_of(y), y.c, packed,
                  finish_of{y, x, row_bias, residual, bias, activation, row_pixels(y)});
}

int ks_cuda_gate(void *stream, ks_dtype type, ks_act y, ks_act x)
{
    return launch(stream, type, pixels_of(y), y.c, packable(type, y) && packable(type, x),
                  gate_of{y, x});
}

int ks_cuda_upsample(void *stream, ks_dtype type, ks_act y, ks_act x)
{
    return launch(stream, type, pixels_of(y), y.c, packable(type, y) && packable(type, x),
                  upsample_of{y, x});
}

int ks_cuda_timestep_embedding(void *stream, ks_dtype type, ks_act y, const float *t)
{
    return launch(stream, type, y.n, y.c, false, sinusoids_of{y, t});
}

int ks_cuda_embedding(void *stream, ks_dtype type, ks_act y, const int32_t *ids,
                      const void *tokens, int count, const void *positions)
{
    return launch(stream, type, pixels_of(y), y.c, false,
                  embedding_of{y, ids, tokens, positions, count, row_pixels(y)});
}

int ks_cuda_from_latents(void *stream, ks_dtype type, ks_act y, const float *const *x,
                         const float *scale)
{
    return launch(stream, type, pixels_of(y) * y.c, 1, false,
                  from_latents_of{y, x, scale, row_pixels(y)});
}

int ks_cuda_to_latents(void *stream, ks_dtype type, float *const *out, ks_act x)
{
    return launch(stream, type, pixels_of(x) * x.c, 1, false,
                  to_latents_of{x, out, row_pixels(x)});
}

int ks_cuda_from_floats(void *stream, ks_dtype type, ks_act y, const float *x)
{
    return launch(stream, type, pixels_of(y), y.c, false, from_floats_of{y, x});
}

int ks_cuda_to_floats(void *stream, ks_dtype type, float *out, ks_act x)
{
    return launch(stream, type, pixels_of(x), x.c, false, to_floats_of{x, out});
}

int ks_cuda_to_rgb(void *stream, ks_dtype type, uint8_t *rgb, ks_act x)
{
    return launch(stream, type, pixels_of(x), x.c, false, rgb_of{x, rgb});
}
