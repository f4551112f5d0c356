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
    ks_text_memory encoding_memory[KS_ENCODINGS];
    bool encoding_used[KS_ENCODINGS];
    float *empty_states; /* host, of the empty prompt; NULL: not needed so far */
    bool has_vae;

    uint64_t conds; /* made so far: the last one's id */
    int longest;    /* tokens of the longest conditioning so far; of a part, that a call has had: the other parts may not know yet
                     * of one that was made here, and their pools must be alike */
    ks_kv_pool pool;

    int rows, height, width; /* as planned; rows 0: not yet */
    int capacity;            /* rows that the arrays have room for */
    double reserved;         /* bytes of activations that earlier shapes found room for */
    size_t array_bytes;
    char *host, *device; /* memory behind the arrays */
    ks_call_arrays host_arrays, device_arrays;
};

/* --- decode.c --- */

/* Device memory that decoding one latent after another needs. */
typedef struct ks_decoding {
    float *latent, *floats;
    const float **pointer; /* to latent, followed by the number 1 */
    uint8_t *rgb;
} ks_decoding;

/* For latents of so many values, and pictures. The end takes what a failed beginning has left, too. */
int ks_decoding_begin(ks_decoding *d, ks_ops *ops, size_t latent, size_t values, ks_error *err);
void ks_decoding_end(ks_decoding *d, ks_ops *ops);

/* Decodes one host latent as a whole to host memory; rgb, floats: NULL where not wanted. Waits. */
int ks_decode_piece(ks_model *m, ks_decoding *d, const float *latent, int height, int width, uint8_t *rgb, float *floats,
                    ks_error *err);

/* --- decode_tiles.c --- */

/* In cells: 1024 pixels of the usual decoder, which fade over 256. */
enum { KS_TILE_SIDE = 128, KS_TILE_OVERLAP = 32 };

/* The same in tiles of at most side x side cells that overlap by `overlap` or more and fade into each other. */
int ks_decode_tiles(ks_model *m, const float *latent, int height, int width, int side, int overlap, uint8_t *rgb, float *floats,
                    ks_error *err);

struct ks_cond {
    ks_model *model;
    ks_kv_source source; /* its arrays follow this struct */
};

#endif
