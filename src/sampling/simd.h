/* One loop, three instruction sets, the same bits.
 *
 * A KS_LOOP function is inlined into three others, which the compiler turns into vectors of 16, 32
 * and 64 bytes on x86-64; the processor decides at run time. The wider ones run the same IEEE
 * operations on more lanes: none reorders a sum or fuses a multiplication with an addition (this
 * folder is built with -ffp-contract=off), so the choice never shows in a result. */
#ifndef KS_SAMPLING_SIMD_H
#define KS_SAMPLING_SIMD_H

#include <stdbool.h>

#define KS_LOOP static inline __attribute__((always_inline))

#if defined(__x86_64__)
#define KS_AVX2 __attribute__((target("avx2")))
#define KS_AVX512 __attribute__((target("avx2,avx512f,avx512bw,avx512dq,avx512vl")))

static inline bool ks_cpu_has_avx2(void)
{
    return __builtin_cpu_supports("avx2");
}

static inline bool ks_cpu_has_avx512(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

/* Defines name(parameters), which calls the widest compilation of name_loop that this machine
 * runs. */
#define KS_DISPATCH(name, parameters, arguments)                                                   \
    static void name##_plain parameters { name##_loop arguments; }                                 \
    KS_AVX2 static void name##_avx2 parameters { name##_loop arguments; }                          \
    KS_AVX512 static void name##_avx512 parameters { name##_loop arguments; }                      \
    static void name parameters                                                                    \
    {                                                                                              \
        if (ks_cpu_has_avx512())                                                                   \
            name##_avx512 arguments;                                                               \
        else if (ks_cpu_has_avx2())                                                                \
            name##_avx2 arguments;                                                                 \
        else                                                                                       \
            name##_plain arguments;                                                                \
    }
#else
#define KS_DISPATCH(name, parameters, arguments)                                                   \
    static void name parameters { name##_loop arguments; }
#endif

#endif
