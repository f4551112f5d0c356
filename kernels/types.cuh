/* What the kernels of this folder share: compute types, packs of channels that move as 16 bytes,
 * and the choice of both at launch. */
#ifndef KS_KERNELS_TYPES_CUH
#define KS_KERNELS_TYPES_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/ops.h"

namespace ks {

__device__ __forceinline__ float to_float(float v) { return v; }
__device__ __forceinline__ float to_float(double v) { return static_cast<float>(v); }
__device__ __forceinline__ float to_float(__half v) { return __half2float(v); }
__device__ __forceinline__ float to_float(__nv_bfloat16 v) { return __bfloat162float(v); }

template <typename T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
template <> __device__ __forceinline__ __half from_float<__half>(float v)
{
    return __float2half_rn(v);
}
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float v)
{
    return __float2bfloat16_rn(v);
}

/* V neighbouring channels. */
template <typename T, int V> struct alignas(sizeof(T) * V) pack {
    T value[V];
};

template <typename T, int V> __device__ __forceinline__ pack<T, V> load_pack(const T *from)
{
    return *reinterpret_cast<const pack<T, V> *>(from);
}

template <typename T, int V> __device__ __forceinline__ void store_pack(T *to, pack<T, V> p)
{
    *reinterpret_cast<pack<T, V> *>(to) = p;
}

template <typename T, int V>
__device__ __forceinline__ void load_floats(float (&to)[V], const T *from)
{
    pack<T, V> p = load_pack<T, V>(from);
#pragma unroll
    for (int i = 0; i < V; i++)
        to[i] = to_float(p.value[i]);
}

template <typename T, int V>
__device__ __forceinline__ void store_floats(T *to, const float (&from)[V])
{
    pack<T, V> p;
#pragma unroll
    for (int i = 0; i < V; i++)
        p.value[i] = from_float<T>(from[i]);
    store_pack<T, V>(to, p);
}

/* x Phi(x), Phi by the error function. */
__device__ __forceinline__ float gelu(float x)
{
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
}

/* The same within 5e-6 of itself for |x| <= 4 and within 5e-7 beyond, for results of 16 bits; half the instructions. Phi(-a),
 * a >= 0, is 2 to a polynomial, nearly the minimax one of degree 7 on (0, 5.6), which goes on falling beyond. */
__device__ __forceinline__ float gelu_short(float x)
{
    const float a = fabsf(x);
    float p = -1.43082838e-06f;
    p = fmaf(p, a, 5.48918185e-05f);
    p = fmaf(p, a, -0.000887165666f);
    p = fmaf(p, a, 0.00836965462f);
    p = fmaf(p, a, -0.0537334834f);
    p = fmaf(p, a, -0.458644851f);
    p = fmaf(p, a, -1.15119263f);
    p = fmaf(p, a, -1.0f);
    float tail;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(tail) : "f"(p));
    return fmaf(-a, tail, fmaxf(x, 0.0f));
}

__device__ __forceinline__ float activated(float x, ks_activation activation)
{
    switch (activation) {
    case KS_ACT_SILU:
        return x / (1.0f + expf(-x));
    case KS_ACT_GELU:
        return gelu(x);
    case KS_ACT_QUICK_GELU:
        return x / (1.0f + expf(-1.702f * x));
    default:
        return x;
    }
}

/* work(T()) for the type's T; what it returns. */
template <typename F> int with_type(ks_dtype type, F work)
{
    switch (type) {
    case KS_F32:
        return work(float());
    case KS_F16:
        return work(__half());
    case KS_BF16:
        return work(__nv_bfloat16());
    default:
        return cudaErrorInvalidValue;
    }
}

inline int element_size(ks_dtype type)
{
    return type == KS_F32 ? 4 : 2;
}

/* Whether a's pixels can be read and written as packs of 16 bytes. An absent one can. */
inline bool packable(ks_dtype type, ks_act a)
{
    const int v = 16 / element_size(type);
    return !a.data || (a.c % v == 0 && a.stride % v == 0 &&
                       reinterpret_cast<uintptr_t>(a.data) % 16 == 0);
}

inline int64_t pixels_of(ks_act a)
{
    return static_cast<int64_t>(a.n) * a.h * a.w;
}

inline cudaStream_t stream_of(void *stream)
{
    return static_cast<cudaStream_t>(stream);
}

} // namespace ks

#endif
