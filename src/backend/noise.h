/* Random normals as an operation of a device: what it must know of torch's generators, and nothing of samplers. */
#ifndef KS_BACKEND_NOISE_H
#define KS_BACKEND_NOISE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum ks_noise_kind { KS_NOISE_CPU, KS_NOISE_CUDA } ks_noise_kind;

/* One of torch's generators. */
typedef struct ks_noise_device {
    ks_noise_kind kind;  /* MT19937 or Philox */
    int multiprocessors; /* cuda only */
} ks_noise_device;

/* A whole first draw of n standard normals from a generator of its own, with its place in two sums. */
typedef struct ks_noise_term {
    uint64_t seed; /* cpu: the low 32 bits count */
    double plus, minus;
} ks_noise_term;

enum { KS_NOISE_STATE = 625 }; /* words of a CPU generator's state: MT19937's, then the place of the next one among them */

/* out[i] = (float)(scale * w[i] + base_coef * base[i]), 0 <= i < n, in double; base may be NULL or out itself.
 * Without terms w is one draw of n normals. With terms it is sum_k plus_k z_k[i] - sum_k minus_k z_k[i], z_k being their
 * draws, each sum in term order from zero. Draws are bit for bit those of sampling/noise.h; the CPU generator's have n >=
 * KS_NORMAL_BLOCK here. */
typedef struct ks_noise_op {
    float *out;
    int64_t n;
    ks_noise_device device;
    double scale, base_coef;
    const float *base;
    int terms;
    const ks_noise_term *term; /* host, read during the call only */
    /* Without terms: */
    uint64_t seed;
    int64_t skip;    /* what is passed over first: words (cpu), blocks (cuda) */
    uint32_t *state; /* cpu: device [KS_NOISE_STATE], a generator that goes on from draw to draw, or NULL */
    bool fresh;      /* state holds nothing yet: it is seeded first */
} ks_noise_op;

#endif
