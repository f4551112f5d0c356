/* Parameters from a file's types to the compute type, and the random rows that a product is tried
 * with.
 *
 * stream: a cudaStream_t. Every function returns a cudaError_t of the launch. */
#ifndef KS_KERNELS_PARAMETERS_H
#define KS_KERNELS_PARAMETERS_H

#include <stddef.h>

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* to [out][taps][in] in `type` from from [out][in][taps] in `source` (F32, F16, BF16, F64). */
int ks_cuda_pack(void *stream, ks_dtype type, void *to, ks_dtype source, const void *from,
                 int64_t out, int64_t in, int64_t taps);

/* Rows of `row` values each, evenly spread over (-1, 1); row r gets what row (r + shift) % rows
 * gets without a shift. */
int ks_cuda_random_rows(void *stream, ks_dtype type, void *to, int rows, int64_t row, int shift,
                        uint32_t seed);

/* *differ (device) becomes 1 where a row of moved has other bits than the row of `plain` that it
 * was shifted from; left alone otherwise. row: bytes, even. */
int ks_cuda_compare_rows(void *stream, int32_t *differ, const void *plain, const void *moved,
                         int rows, size_t row, int shift);

/* Does nothing: shows whether this build has code for the GPU. */
int ks_cuda_probe(void *stream);

#ifdef __cplusplus
}
#endif

#endif
