/* What a ks_model is made of. */
#ifndef KS_MODEL_INTERNAL_H
#define KS_MODEL_INTERNAL_H

#include "model/kv_pool.h"
#include "model/model.h"
#include "model/text.h"
#include "model/tokenizer.h"
#include "model/vae.h"

/* The arrays that a call looks at, one value a row. Twice the same: on the host, and on the device,
 * where they are copied to at once. */
typedef struct ks_call_arrays {
    const float **x;
    float **out;
    const float **label;
    float *scale, *one, *timestep;
    int32_t *slot;
} ks_call_arrays;

struct ks_model {
    ks_model_config config;
    ks_ops *ops;
    ks_weight_list weights;
    ks_unet unet;
    ks_text text;
    ks_vae vae;
    ks_tokenizer *tokenizer; /* NULL without KS_LOAD_TEXT */
    bool has_vae;

    uint64_t conds; /* made so far: the last one's id */
    int longest;    /* tokens of the longest conditioning so far */
    ks_kv_pool pool;

    int rows, height, width; /* as planned; rows 0: not yet */
    int capacity;            /* rows that the arrays have room for */
    double reserved;         /* bytes of activations that earlier shapes found room for */
    size_t array_bytes;
    char *host, *device; /* memory behind the arrays */
    ks_call_arrays host_arrays, device_arrays;
};

struct ks_cond {
    ks_model *model;
    ks_kv_source source; /* its arrays follow this struct */
};

#endif
