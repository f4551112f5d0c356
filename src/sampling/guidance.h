/* Classifier-free guidance over several conditionings a side, as weights of network outputs.
 *
 * Each side's denoised estimate is sum(w_k * D_k) / (1e-37 + sum(w_k)) over its active
 * conditionings, 0 when none is; the guided one is uncond + (cond - uncond) * cfg (Ho & Salimans
 * 2022, arXiv 2207.12598). w_k is the strength, and with an area or a mask differs from cell to
 * cell. Every D_k is linear in x and in the network's output, so a side without areas and masks is
 * one linear combination of x and the outputs.
 *
 * A conditioning with an area has the network look at that part of x alone. So that both sides say
 * something about it in the same context, the other side gets a copy of it, with the text of its
 * own smallest area around it, or of its first conditioning without an area.
 *
 * The sides are not folded into one combination: ComfyUI rounds each to float32, and where a step
 * divides x - D by a small sigma that rounding is seen. Only the same rounding agrees with it. */
#ifndef KS_SAMPLING_GUIDANCE_H
#define KS_SAMPLING_GUIDANCE_H

#include <stdbool.h>

#include "sampling/engine.h"

typedef struct ks_condition {
    const struct ks_cond *cond;
    ks_hash128 id;
    bool negative;
    double strength;                /* with a mask, times its strength */
    double sigma_first, sigma_last; /* active while sigma_last <= sigma <= sigma_first */
    bool has_area;
    ks_window area; /* as given; the whole latent without one */
    ks_window at;   /* the part of it that lies in the latent: what the network sees */
    int given;      /* the call's conditioning whose area and mask it has: positives come first */
    double weight;  /* of its output in its side's estimate; set by ks_guidance_weigh */
} ks_condition;

typedef struct ks_guidance_set {
    ks_condition *condition; /* positives, then negatives, then those for the other side's areas */
    int conditions;
    double cfg; /* exactly 1 when it is as good as 1 */
    int *active;
    int actives;        /* conditions that the network must evaluate, by ks_guidance_weigh */
    bool regional[2];   /* whether a side has areas or masks: it is blended then */
    bool evaluated[2];  /* whether a side counts: [false] the positive, [true] the negative */
    double x_weight[2]; /* of x in the estimate of a side without areas and masks */
    double x_part, output_part; /* D_k = x_part * x + output_part * output_k */
} ks_guidance_set;

/* Conditions that a call's conditionings can make at most. */
int ks_guidance_room(const ks_call *call);

/* condition, active: room for so many. -1 when an area lies outside the latent. */
int ks_guidance_init(ks_guidance_set *g, const ks_call *call, ks_condition *condition, int *active,
                     ks_error *err);

/* Finds what is active at sigma and all weights. both: the negative side is wanted for itself;
 * otherwise a side that has no part in the guided estimate is not evaluated. */
void ks_guidance_weigh(ks_guidance_set *g, ks_prediction prediction, float sigma, bool both);

#endif
