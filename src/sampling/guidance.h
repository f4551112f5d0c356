/* Classifier-free guidance over several conditionings a side, as weights of network outputs.
 *
 * Each side's denoised estimate is sum(strength_k * D_k) / (1e-37 + sum(strength_k)) over its active
 * conditionings, 0 when none is; the guided one is uncond + (cond - uncond) * cfg (Ho & Salimans 2022,
 * arXiv 2207.12598). Every D_k is linear in x and in the network's output, so a side is one linear
 * combination of x and the outputs.
 *
 * The sides are not folded into one combination: ComfyUI rounds each to float32, and where a step divides
 * x - D by a small sigma that rounding is seen. Only the same rounding agrees with it. */
#ifndef KS_SAMPLING_GUIDANCE_H
#define KS_SAMPLING_GUIDANCE_H

#include <stdbool.h>

#include "sampling/engine.h"

typedef struct ks_condition {
    const struct ks_cond *cond;
    ks_hash128 id;
    bool negative;
    double strength;
    double sigma_first, sigma_last; /* active while sigma_last <= sigma <= sigma_first */
    double weight;                  /* of its output in its side's estimate; set by ks_guidance_weigh */
} ks_condition;

typedef struct ks_guidance_set {
    ks_condition *condition; /* positives, then negatives */
    int conditions;
    double cfg; /* exactly 1 when it is as good as 1 */
    int *active;
    int actives;        /* conditions that the network must evaluate, set by ks_guidance_weigh */
    bool evaluated[2];  /* whether a side counts: [false] the positive, [true] the negative */
    double x_weight[2]; /* of x in a side's estimate */
} ks_guidance_set;

/* condition: room for all of the call's conditionings; active: room for as many indices. */
void ks_guidance_init(ks_guidance_set *g, const ks_call *call, ks_condition *condition, int *active);

/* Finds what is active at sigma and all weights. both: the negative side is wanted for itself; otherwise a
 * side that has no part in the guided estimate is not evaluated. */
void ks_guidance_weigh(ks_guidance_set *g, ks_prediction prediction, float sigma, bool both);

#endif
