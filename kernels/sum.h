/* Sums over the devices that hold parts of one network.
 *
 * stream: a cudaStream_t. Every function returns a cudaError_t of the launch. */
#ifndef KS_KERNELS_SUM_H
#define KS_KERNELS_SUM_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* y[i] = part[0][i] + part[1][i] + ..., added in that order in float32 and rounded once. part: [parts, n]; n a multiple of
 * KS_CUDA_SUM_UNIT; all on 16-byte boundaries. y may be one of the parts. */
enum { KS_CUDA_SUM_UNIT = 8 };
int ks_cuda_sum(void *stream, ks_dtype type, void *y, const void *part, int parts, int64_t n);

/* Two devices that write into each other's memory. own, other: ks_cuda_exchange_bytes() each, zeroed before the first sum;
 * turns: KS_CUDA_TURN_BYTES of this device alone, zeroed; given_up: on the host and seen by the device, not 0 ends what still
 * waits. blocks: the same at both, KS_CUDA_EXCHANGE_EACH for every multiprocessor that either has, or at most
 * KS_CUDA_EXCHANGE_MOST_EACH. */
typedef struct ks_cuda_exchange {
    void *own, *other, *turns;
    const int *given_up;
    int blocks;
} ks_cuda_exchange;
enum { KS_CUDA_EXCHANGE_BLOCKS = 512, KS_CUDA_EXCHANGE_EACH = 2, KS_CUDA_EXCHANGE_MOST_EACH = 3 };
enum { KS_CUDA_TURN_BYTES = 16, KS_CUDA_EXCHANGE_MOST = 32 << 20 /* bytes of a sum */ };
size_t ks_cuda_exchange_bytes(void);

/* y becomes y + the other device's y, at both, each sum in float32 and rounded once. Both launch sums of the same shapes in
 * the same order, of at most KS_CUDA_EXCHANGE_MOST bytes; pixels begin and end on 16-byte boundaries. All its blocks must run
 * at once: nothing else may keep multiprocessors from it. */
int ks_cuda_sum_with_other(void *stream, ks_dtype type, ks_act y, const ks_cuda_exchange *x);

#ifdef __cplusplus
}
#endif

#endif
