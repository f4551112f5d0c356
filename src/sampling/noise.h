/* Random numbers exactly as torch makes them, so that a seed gives ComfyUI's noise.
 *
 * CPU generator: MT19937 (Matsumoto & Nishimura 1998) seeded with the low 32 bits of the seed, and
 * torch's two Box-Muller layouts (blocks of 16 for n >= 16; one by one in double below).
 * CUDA generator: Philox 4x32-10 (Salmon et al. 2011) in torch's grid layout, which depends on the
 * number of multiprocessors for draws above 2048 * multiprocessors elements. */
#ifndef KS_SAMPLING_NOISE_H
#define KS_SAMPLING_NOISE_H

#include <stdint.h>

#include "backend/noise.h"
#include "base/error.h"

/* Where noise inside samplers comes from: "cpu", "cuda" (132 multiprocessors) or "cuda:N". -1 on any other text (err says
 * what is allowed). */
int ks_noise_device_parse(const char *text, ks_noise_device *out, ks_error *err);

/* A generator: plain data, may be copied. */
typedef struct ks_generator {
    ks_noise_device device;
    uint64_t seed;
    uint32_t mt[624]; /* cpu */
    int mt_next;
    double cached; /* cpu: the partner of a scalar normal */
    int has_cached;
    uint64_t block; /* cuda: next Philox block */
} ks_generator;

void ks_generator_seed(ks_generator *g, ks_noise_device device, uint64_t seed);

/* The generator's next draw of n standard normals, flat order. */
void ks_generator_normal(ks_generator *g, float *out, int64_t n);

/* Passes over the next draw of n. */
void ks_generator_skip(ks_generator *g, int64_t n);

/* Words that a draw of n >= 16 takes from the CPU generator. */
int64_t ks_noise_words(int64_t n);

/* prepare_noise: out is [B, C, H, W] with per_item = C*H*W elements an item, from the CPU
 * generator. batch_index: NULL for one joint draw, else batch values, none negative; item k is
 * then draw number batch_index[k] of (1, C, H, W) tensors. Allocates nothing; draws that no item
 * wants are passed over, which costs some 0.5 ns an element. */
void ks_noise_prepare(uint64_t seed, int batch, int64_t per_item, const int64_t *batch_index,
                      float *out);

/* Word 0 of numpy's SeedSequence(entropy, spawn_key, pool_size = 24).generate_state(n), which is
 * the same for every n: first what the entropy alone makes, then one for each spawn key. spawn_key: spawn_count values (0, 1
 * or 2), NULL for none. */
typedef struct ks_seed_root {
    uint32_t word, constant;
} ks_seed_root;
ks_seed_root ks_seed_root_of(uint64_t entropy);
uint32_t ks_seed_word(ks_seed_root root, const uint64_t *spawn_key, int spawn_count);

/* Brownian motion over [t0, t1] by bisection (torchsde's BrownianTree as k-diffusion uses it). Li
 * et al. 2020, "Scalable gradients for stochastic differential equations", arXiv 2001.01328,
 * section 4. Plain data. */
typedef struct ks_brownian_tree {
    ks_seed_root seed;
    double span;      /* t1 - t0 before rounding */
    double low, high; /* rounded ends */
} ks_brownian_tree;

/* t0 <= t1 <= 1e9: smallest positive and largest sigma used. -1 on any other span. */
int ks_brownian_tree_init(ks_brownian_tree *tree, uint64_t seed, double t0, double t1, ks_error *err);

/* k-diffusion's noise from sigma to sigma_next, standard normal: (W(sigma_next) - W(sigma)) * *scale with *scale = 1 /
 * sqrt(|sigma_next - sigma|), as the terms of a ks_noise_op; returns how many. Both must be float32 values. Two equal sigmas
 * give not-a-number, as they do there. */
enum { KS_BROWNIAN_TERMS = 128 };
int ks_brownian_terms(const ks_brownian_tree *tree, double sigma, double sigma_next, ks_noise_term term[KS_BROWNIAN_TERMS],
                      double *scale);

/* A tree whose queries are answered on the host. */
typedef struct ks_brownian ks_brownian;

/* n: elements of the latent (whole batch). All memory (20 n bytes) is taken here; queries allocate nothing. NULL on a span or
 * n out of range. */
ks_brownian *ks_brownian_new(ks_noise_device device, uint64_t seed, double t0, double t1, int64_t n,
                             ks_error *err);
void ks_brownian_free(ks_brownian *b);

/* out[n] = the noise that ks_brownian_terms describes. Earlier queries do not change a bit; a query that shares a sigma with
 * the one before it costs half. */
void ks_brownian_noise(ks_brownian *b, double sigma, double sigma_next, float *out);

#endif
