#include "sampling/guidance.h"

#include <math.h>

/* 1 when cfg differs from it by less than 1e-9, relatively: the negative side is then not evaluated. */
static double snap_to_one(double cfg)
{
    return fabs(cfg - 1) <= 1e-9 * fmax(fabs(cfg), 1) ? 1 : cfg;
}

void ks_guidance_init(ks_guidance_set *g, const ks_call *call, ks_condition *condition, int *active)
{
    *g = (ks_guidance_set){.condition = condition,
                           .conditions = call->positives + call->negatives,
                           .cfg = snap_to_one(call->cfg),
                           .active = active};
    for (int i = 0; i < g->conditions; i++) {
        bool negative = i >= call->positives;
        const ks_guidance *from = negative ? &call->negative[i - call->positives] : &call->positive[i];
        condition[i] = (ks_condition){
            .cond = from->cond,
            .id = from->id,
            .negative = negative,
            .strength = from->strength,
            .sigma_first = ks_percent_to_sigma(call->model_sampling, from->start_percent),
            .sigma_last = ks_percent_to_sigma(call->model_sampling, from->end_percent),
        };
    }
}

/* denoised = *x_weight * x + *out_weight * output. eps: x - sigma * output; v (Salimans & Ho 2022,
 * arXiv 2202.00512) for x scaled by sqrt(sigma^2 + 1). */
static void prediction_weights(ks_prediction prediction, double sigma, double *x_weight, double *out_weight)
{
    double variance = sigma * sigma + 1;
    *x_weight = prediction == KS_PREDICT_V ? 1 / variance : 1;
    *out_weight = prediction == KS_PREDICT_V ? -sigma / sqrt(variance) : -sigma;
}

static bool is_active(const ks_condition *c, double sigma)
{
    return c->sigma_last <= sigma && sigma <= c->sigma_first;
}

static double strength_of_side(const ks_guidance_set *g, bool negative, double sigma)
{
    double sum = 0;
    for (int i = 0; i < g->conditions; i++)
        if (g->condition[i].negative == negative && is_active(&g->condition[i], sigma))
            sum += g->condition[i].strength;
    return sum;
}

static void weigh_side(ks_guidance_set *g, bool negative, ks_prediction prediction, double sigma)
{
    double x_weight, out_weight;
    prediction_weights(prediction, sigma, &x_weight, &out_weight);
    double total = 1e-37 + strength_of_side(g, negative, sigma);
    g->evaluated[negative] = true;
    g->x_weight[negative] = 0;
    for (int i = 0; i < g->conditions; i++) {
        ks_condition *c = &g->condition[i];
        if (c->negative != negative || !is_active(c, sigma))
            continue;
        c->weight = c->strength / total * out_weight;
        g->x_weight[negative] += c->strength / total * x_weight;
        g->active[g->actives++] = i;
    }
}

void ks_guidance_weigh(ks_guidance_set *g, ks_prediction prediction, float sigma, bool both)
{
    g->actives = 0;
    g->evaluated[false] = g->evaluated[true] = false;
    if (g->cfg != 0 || both)
        weigh_side(g, false, prediction, (double)sigma);
    if (g->cfg != 1 || both)
        weigh_side(g, true, prediction, (double)sigma);
}
