/* AVX-512 F, DQ, BW and VL (x86-64-v4); CMakeLists.txt gives the flags, on other architectures this
 * file is left out. */
#define VECTOR_TABLE ks_vector_avx512
#define VECTOR_NAME  "avx512"
#define VECTOR_USABLE                                                                              \
    (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&                    \
     __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&                   \
     __builtin_cpu_supports("fma"))
#include "backend/cpu/vector_loops.h"
