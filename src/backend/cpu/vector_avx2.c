/* AVX2 and FMA (x86-64-v3); CMakeLists.txt gives the flags, on other architectures this file is
 * left out. */
#define VECTOR_TABLE  ks_vector_avx2
#define VECTOR_NAME   "avx2"
#define VECTOR_USABLE (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#include "backend/cpu/vector_loops.h"
