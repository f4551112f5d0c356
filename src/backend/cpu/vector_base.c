/* For every CPU of the architecture that the compiler was set to: SSE2 on x86-64, NEON on
 * aarch64. */
#define VECTOR_TABLE  ks_vector_base
#define VECTOR_NAME   "base"
#define VECTOR_USABLE true
#include "backend/cpu/vector_loops.h"
