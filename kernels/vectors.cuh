/* 16-byte units of an element type, and single elements, as fp32. */
#ifndef KS_KERNELS_VECTORS_CUH
#define KS_KERNELS_VECTORS_CUH

#include "mma.cuh"

template <class T> __device__ __forceinline__ float2 ks_unpack(uint32_t pair);

template <> __device__ __forceinline__ float2 ks_unpack<__half>(uint32_t pair)
{
    return __half22float2(*reinterpret_cast<const __half2 *>(&pair));
}

template <> __device__ __forceinline__ float2 ks_unpack<__nv_bfloat16>(uint32_t pair)
{
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(&pair));
}

/* COUNT elements: a whole unit (16 / sizeof(T)) or one. */
template <class T, int COUNT> struct ks_unit {
    typedef uint4 raw;

    static __device__ __forceinline__ void open(float (&x)[COUNT], const raw &unit)
    {
        const uint32_t word[4] = {unit.x, unit.y, unit.z, unit.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 pair = ks_unpack<T>(word[i]);
            x[2 * i] = pair.x;
            x[2 * i + 1] = pair.y;
        }
    }

    static __device__ __forceinline__ raw close(const float (&x)[COUNT])
    {
        return make_uint4(ks_pack<T>(x[0], x[1]), ks_pack<T>(x[2], x[3]), ks_pack<T>(x[4], x[5]),
                          ks_pack<T>(x[6], x[7]));
    }
};

template <> struct ks_unit<float, 4> {
    typedef float4 raw;

    static __device__ __forceinline__ void open(float (&x)[4], const raw &unit)
    {
        x[0] = unit.x, x[1] = unit.y, x[2] = unit.z, x[3] = unit.w;
    }

    static __device__ __forceinline__ raw close(const float (&x)[4])
    {
        return make_float4(x[0], x[1], x[2], x[3]);
    }
};

template <class T> struct ks_unit<T, 1> {
    typedef T raw;

    static __device__ __forceinline__ void open(float (&x)[1], const raw &unit)
    {
        x[0] = (float)unit;
    }

    static __device__ __forceinline__ raw close(const float (&x)[1])
    {
        return T(x[0]);
    }
};

#endif
