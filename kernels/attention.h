/* Scaled dot-product attention on an NVIDIA GPU: y = softmax(q k^T / sqrt(width)) v for each head,
 * with the meaning of ks_ops.attention. Calls queue on a stream and return a cudaError_t. */
#ifndef KS_KERNELS_ATTENTION_H
#define KS_KERNELS_ATTENTION_H

#include "backend/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of workspace that a call of these sizes needs; may be 0. */
size_t ks_cuda_attention_workspace(ks_dtype type, int n, int q_tokens, int kv_tokens, int heads,
                                   int width);

/* type: KS_F32, KS_F16 or KS_BF16, of all four tensors. width = c / heads: any in fp32, up to 512
 * in fp16 and bf16. kv_row [q.n], kv_len [k.n]: device arrays or NULL. A row of k and v with no
 * tokens gives zeros; what stands behind its tokens is never used. Any stride and alignment works;
 * rows, heads and widths on 16-byte boundaries are fast.
 * A row's bits depend on neither its place nor its neighbours: one block sums over all keys of its
 * queries in one order, and which kernel runs is decided by types, sizes and strides, never by n.
 * Returns cudaErrorInvalidValue for shapes that do not fit. */
int ks_cuda_attention(void *stream, ks_dtype type, ks_act y, ks_act q, ks_act k, ks_act v,
                      int heads, bool causal, const int32_t *kv_row, const int32_t *kv_len,
                      void *workspace, size_t workspace_bytes);

/* For measurements: attention without masks by the kernel named, "mma", "wgmma" or "resident";
 * cudaErrorNotSupported where it is not for this shape or chip. */
int ks_cuda_attention_by(const char *kernel, void *stream, ks_dtype type, ks_act y, ks_act q,
                         ks_act k, ks_act v, int heads);

#ifdef __cplusplus
}
#endif

#endif
