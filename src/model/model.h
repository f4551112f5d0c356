/* A diffusion model on a device: UNet, and where the file holds them CLIP text encoder and VAE
 * decoder. Written once over backend/ops.h. One object, one thread. */
#ifndef KS_MODEL_MODEL_H
#define KS_MODEL_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/error.h"
#include "base/hash.h"
#include "model/config.h"
#include "model/split.h"

typedef struct ks_model ks_model;

enum { KS_LOAD_TEXT = 1, KS_LOAD_VAE = 2 }; /* the UNet is always loaded */

/* Loads the weights of an open file onto ops. The file may be closed afterwards. parts: KS_LOAD_*;
 * a part that the file lacks is an error. tokenizer_folder: needed with KS_LOAD_TEXT.
 *
 * split: the part of the UNet that is loaded, NULL for the whole. ops has joined the other parts' then, and all of them make
 * the same plans and calls in the same order: the same rows of the same shapes, in the same places, with conditionings of the
 * same lengths. Each has the whole output. */
ks_model *ks_model_load(const ks_safetensors *st, const ks_model_config *config, ks_ops *ops, const ks_split *split,
                        int parts, const char *tokenizer_folder, ks_error *err);
void ks_model_free(ks_model *m);
const ks_model_config *ks_model_config_of(const ks_model *m);

/* --- conditioning --- */

/* A conditioning. What the network reads of it (every cross-attention's keys and values, and the
 * vector y through its embedding) is computed on the device when a row first needs it and stays
 * while it is used: a plan has room for the conditionings of about two calls, so that a sweep may
 * have any number of them. Computing it again gives the same bits. */
typedef struct ks_cond ks_cond;

/* context: host [tokens, context_dim]; y: host [adm_channels], or NULL for a model without one.
 * Both are copied. The model must outlive the conditioning. */
ks_cond *ks_cond_new(ks_model *m, const float *context, int tokens, const float *y, ks_error *err);
void ks_cond_free(ks_cond *c);
/* What it was made from, as long as it lives; *y NULL without one. Returns a number that no other conditioning of the model ever has. */
uint64_t ks_cond_content(const ks_cond *c, int *tokens, const float **context, const float **y);
size_t ks_cond_bytes(const ks_cond *c); /* device memory it holds now; 0 while not resident */

/* Text -> context as ComfyUI's CLIP text encode for SD 1.x does: blocks of 77 tokens (start, 75
 * ids, end, padded with end), a longer text in several blocks whose outputs follow one another;
 * emphasis "(words)", "(words:1.3)" moves a token's state away from the empty prompt's.
 * *context is new memory (free() it), [*tokens, width]. */
int ks_model_encode_text(ks_model *m, const char *text, float **context, int *tokens,
                         ks_error *err);

/* The same in two parts. begin queues the work; end, once all that was queued by then has been waited for, hands out the
 * context and frees (context NULL: only frees). At most KS_ENCODINGS at a time. */
typedef struct ks_encoding ks_encoding;
enum { KS_ENCODINGS = 9 };
ks_encoding *ks_model_encode_begin(ks_model *m, const char *text, ks_error *err);
void ks_model_encode_end(ks_encoding *e, float **context, int *tokens);

/* Waits for all that is queued on the model's device. */
int ks_model_wait(ks_model *m, ks_error *err);

/* SDXL's y: pooled [P], then the sinusoidal embeddings (256 wide each) of height, width, crop_h,
 * crop_w, target_height, target_width: P + 1536 values. */
void ks_sdxl_vector(const float *pooled, int pooled_width, const int size[6], float *y);

/* --- network --- */

/* Fixes the rows of the calls that follow and their usual shape: latent height and width in cells;
 * any size fits, for the network rounds odd sizes up as it halves them and goes back to them
 * exactly, as ComfyUI does. Must be called before ks_model_rows, and may be called again. Fails
 * when memory is short. */
int ks_model_plan(ks_model *m, int rows, int height, int width, ks_error *err);

/* One UNet call of n <= rows rows of one shape, the planned one or another; queued, not waited for.
 * Only n rows are computed: a row's bits do not depend on how many there are. row[i].x and out:
 * device [C, H, W]. */
int ks_model_rows(ks_model *m, const ks_net_row *row, int n, ks_error *err);

/* Raw UNet output for a test's eye: x host [n,C,H,W], already scaled; timesteps [n]; conds [n]; out
 * host [n,C,H,W]. Waits. Plans for this shape, and for n rows where the plan has fewer. */
int ks_model_forward(ks_model *m, const float *x, const int *timesteps, ks_cond *const *conds,
                     int n, int height, int width, float *out, ks_error *err);

/* Decodes n latents (host [n, C, H, W], ComfyUI units) to host [n, 8H, 8W, 3] bytes. floats: NULL,
 * or [n, 8H, 8W, 3] of the decoder's raw output. A picture that would take more than 12 GiB (above 2400 x 2400 pixels for the
 * usual decoder in fp16) is put together from tiles, which differs a little: the decoder's norms see a tile each. */
int ks_model_decode(ks_model *m, const float *latent, int n, int height, int width, uint8_t *rgb,
                    float *floats, ks_error *err);

/* Multiply-adds of one row's UNet call at a latent size and context length, for estimates; keys and
 * values of the context, which are made once, are not counted. */
double ks_unet_macs(const ks_unet_config *c, int height, int width, int tokens);
/* Device bytes of one row's activations at their peak, roughly, at `element` bytes each, in a network split into so many parts;
 * with a backend that has no slices (ops.h) they are up to a quarter fewer. */
double ks_unet_activation_bytes(const ks_unet_config *c, int parts, int height, int width, int element);
/* Device bytes of one conditioning's keys and values at a part. */
double ks_unet_conditioning_bytes(const ks_unet_config *c, int parts, int tokens, int element);
/* Device bytes that decoding one latent as a whole takes at its peak, roughly. */
double ks_vae_activation_bytes(const ks_vae_config *c, int height, int width, int element);
/* The same as ks_model_decode does it: in tiles where the whole takes more than 12 GiB. */
double ks_decode_bytes(const ks_vae_config *c, int height, int width, int element);

#endif
