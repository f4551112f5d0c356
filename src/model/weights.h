/* Taking parameters out of a file by name: each is checked against the shape that the network
 * needs, handed to the backend, and kept in a list that is freed at once. */
#ifndef KS_MODEL_WEIGHTS_H
#define KS_MODEL_WEIGHTS_H

#include <stdbool.h>

#include "backend/ops.h"
#include "base/error.h"
#include "model/safetensors.h"
#include "model/split.h"

/* Every parameter of a model. */
typedef struct ks_weight_list {
    ks_weight **item;
    int count, capacity;
} ks_weight_list;

/* The first failure is kept in err and failed; later calls return NULL at once, so that a network
 * is loaded without a check at every line. split: which part of the layers that are split is loaded. */
typedef struct ks_loader {
    const ks_safetensors *st;
    ks_ops *ops;
    ks_split split;
    ks_weight_list *list;
    ks_error *err;
    bool failed;
    char *slice; /* memory for a share of a tensor's inputs */
    size_t slice_bytes;
} ks_loader;

/* A tensor's or module's name. Returned by value: ks_join(base, "norm%d", 1).text lives to the end
 * of the expression. */
typedef struct ks_name {
    char text[256];
} ks_name;

/* base followed by the formatted rest. */
ks_name ks_join(const char *base, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* in, out and c below are the file's, of the whole layer, whatever share of it is loaded. */

/* <module>.weight [out, in], or [out, in, 1, 1] as a 1x1 convolution, and <module>.bias [out] where
 * bias is true. */
ks_weight *ks_load_linear(ks_loader *l, const char *module, int in, int out, bool bias);
ks_weight *ks_load_linear_share(ks_loader *l, ks_share share, const char *module, int in, int out,
                                bool bias);

/* Several linears of one input as one, their outputs side by side; of a split network each with its
 * share of the outputs. out[i]: of each. */
ks_weight *ks_load_fused(ks_loader *l, int parts, const ks_name *modules, int in, const int *out,
                         bool bias);

/* GEGLU's linear of values and gates, <module>.weight [2 * out, in] and <module>.bias [2 * out]; of a
 * split network a share of the values with the same of the gates. */
ks_weight *ks_load_geglu(ks_loader *l, const char *module, int in, int out);

/* <module>.weight [out, in, k, k] and <module>.bias [out]. */
ks_weight *ks_load_conv(ks_loader *l, const char *module, int in, int out, int k);
/* One of 3 x 3 that upsamples its input first. */
ks_weight *ks_load_upsample(ks_loader *l, const char *module, int channels);
ks_weight *ks_load_conv_share(ks_loader *l, ks_share share, const char *module, int in, int out,
                              int k);

/* Scale and shift, <module>.weight [c] and <module>.bias [c]. */
ks_weight *ks_load_norm(ks_loader *l, const char *module, int c);
ks_weight *ks_load_norm_share(ks_loader *l, ks_share share, const char *module, int c);

/* A table name [count, c]. */
ks_weight *ks_load_table(ks_loader *l, const char *name, int count, int c);

/* Zeroed memory that the caller frees; NULL after a failure or without memory, which then is the
 * loader's failure. */
void *ks_loader_alloc(ks_loader *l, size_t count, size_t size);

/* Gives back what loading alone needed. */
void ks_loader_end(ks_loader *l);

void ks_weight_list_free(ks_weight_list *list, ks_ops *ops);

#endif
