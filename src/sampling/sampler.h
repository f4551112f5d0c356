/* What a sampler sees: its lane.
 *
 * A sampler is straight-line C that reads like the paper it implements. It runs on a fiber of its
 * own: ks_denoise and ks_error_norm suspend it, the other calls only queue work. It never touches a
 * device, MPI or a file, keeps its stack small (big arrays come from ks_lane_alloc), and may be
 * dropped at any suspension: it must own nothing that needs freeing.
 *
 * Tensors are the lane's latents [B, C, H, W], float32. Coefficients are doubles made from float32
 * sigmas. Adding a sampler: one function, one row in the table of samplers.c. */
#ifndef KS_SAMPLING_SAMPLER_H
#define KS_SAMPLING_SAMPLER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "sampling/schedule.h"

typedef struct ks_lane ks_lane;
typedef struct ks_tensor ks_tensor; /* an opaque latent-shaped array that belongs to the lane */

typedef struct ks_term {
    double coef;
    const ks_tensor *x;
} ks_term;

/* A tensor with undefined values, given back when the lane ends. Never fails within the number that
 * the sampler's table row states. */
ks_tensor *ks_tensor_new(ks_lane *lane);

/* Zeroed memory for schedules and coefficients, given back when the lane ends. */
void *ks_lane_alloc(ks_lane *lane, size_t bytes);

/* denoised = D(x, sigma) under the lane's conditionings and cfg. Suspends. One network evaluation.
 */
void ks_denoise(ks_lane *lane, ks_tensor *denoised, const ks_tensor *x, double sigma);

/* The same, with the unconditional side's denoised too (the *_cfg_pp samplers): always evaluates
 * both. */
void ks_denoise_pair(ks_lane *lane, ks_tensor *denoised, ks_tensor *uncond, const ks_tensor *x,
                     double sigma);

/* out = sum of the terms (at most KS_LINCOMB_TERMS); out may be among them. */
void ks_lincomb(ks_lane *lane, ks_tensor *out, int count, const ks_term *terms);

/* The next draw of the lane's generator (same seed as the initial noise; noise_device). Into a tensor that nothing else has
 * used since the lane was last suspended, for all lanes' draws go first, together. */
void ks_noise(ks_lane *lane, ks_tensor *out);

/* Brownian-tree noise between two sigmas, standard normal; the tree spans the used sigmas. gpu: the
 * sampler's *_gpu name takes noise_device for its nodes; others always use the CPU generator. */
void ks_brownian_step(ks_lane *lane, ks_tensor *out, double sigma, double sigma_next, bool gpu);

/* sqrt(mean((a / max(atol, rtol * max(|b|, |c|)))^2)) over the whole lane. Suspends. */
double ks_error_norm(ks_lane *lane, const ks_tensor *a, const ks_tensor *b, const ks_tensor *c,
                     double atol, double rtol);

const ks_model_sampling *ks_lane_model_sampling(const ks_lane *lane);
uint64_t ks_lane_seed(const ks_lane *lane);

/* x: the noised latent at sigma[0] on entry, the result on return. sigma: n + 1 float32 values,
 * falling, sigma[n] may be 0; n >= 1. Returns -1 with err for what the method cannot do. */
typedef int ks_sampler_fn(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err);

typedef struct ks_sampler {
    const char *name; /* ComfyUI's */
    ks_sampler_fn *run;
    int tensors;              /* ks_tensor_new calls at most, x not counted */
    bool discard_penultimate; /* schedule of n + 1 steps without its last non-zero sigma */
    bool stochastic;          /* draws noise inside */
    int evaluations;          /* network evaluations a step, for estimates; 0: adaptive */
    bool second_noise;        /* a noise mask keeps what it keeps under noise of seed + 1 */
} ks_sampler;

/* Row of the table by name; -1 when there is none. */
int ks_sampler_find(const char *name);
int ks_sampler_count(void);
const ks_sampler *ks_sampler_at(int index);

#endif
