#include "sampling/guidance.h"

#include <math.h>

#include "sampling/regions.h"

/* 1 when cfg differs from it by less than 1e-9, relatively: the negative side is then not
 * evaluated. */
static double snap_to_one(double cfg)
{
    return fabs(cfg - 1) <= 1e-9 * fmax(fabs(cfg), 1) ? 1 : cfg;
}

/* --- the conditions of a call --- */

int ks_guidance_room(const ks_call *call)
{
    return 2 * (call->positives + call->negatives);
}

static ks_condition condition_of(const ks_call *call, int given)
{
    bool negative = given >= call->positives;
    const ks_guidance *from =
        negative ? &call->negative[given - call->positives] : &call->positive[given];
    const ks_window whole = {.h = call->height, .w = call->width};
    return (ks_condition){
        .cond = from->cond,
        .id = from->id,
        .negative = negative,
        .strength = from->mask ? from->strength * from->mask_strength : from->strength,
        .sigma_first = ks_percent_to_sigma(call->model_sampling, from->start_percent),
        .sigma_last = ks_percent_to_sigma(call->model_sampling, from->end_percent),
        .has_area = from->has_area,
        .area = from->has_area ? from->area : whole,
        .given = given,
    };
}

static double cells(const ks_condition *c)
{
    return (double)c->area.h * c->area.w;
}

/* Of one side, whose text goes with an area: its smallest area around it, else its first
 * conditioning without an area; NULL when there is neither. */
static const ks_condition *text_for(const ks_guidance_set *g, bool negative, const ks_window *area)
{
    const ks_condition *smallest = NULL, *whole = NULL;
    for (int i = 0; i < g->conditions; i++) {
        const ks_condition *c = &g->condition[i];
        if (c->negative != negative)
            continue;
        if (!c->has_area)
            whole = whole ? whole : c;
        else if (ks_area_holds(&c->area, area) && (!smallest || cells(c) < cells(smallest)))
            smallest = c;
    }
    return smallest ? smallest : whole;
}

/* The other side's copy of a conditioning with an area, unless it has one of the same area. */
static void add_opposite(ks_guidance_set *g, const ks_condition *c)
{
    const ks_condition *text = c->has_area ? text_for(g, !c->negative, &c->area) : NULL;
    if (!text || (text->has_area && ks_area_equal(&text->area, &c->area)))
        return;
    ks_condition *copy = &g->condition[g->conditions++];
    *copy = *c;
    copy->negative = !c->negative;
    copy->cond = text->cond;
    copy->id = text->id;
}

/* First for the positives, then for all negatives; the copies of the first round ask for none. */
static void add_opposites(ks_guidance_set *g, int given)
{
    for (int i = 0; i < given; i++)
        add_opposite(g, &g->condition[i]);
}

int ks_guidance_init(ks_guidance_set *g, const ks_call *call, ks_condition *condition, int *active,
                     ks_error *err)
{
    int given = call->positives + call->negatives;
    *g = (ks_guidance_set){.condition = condition,
                           .conditions = given,
                           .cfg = snap_to_one(call->cfg),
                           .active = active};
    for (int i = 0; i < given; i++)
        condition[i] = condition_of(call, i);
    add_opposites(g, given);
    for (int i = 0; i < g->conditions; i++) {
        ks_condition *c = &condition[i];
        const ks_guidance *from = c->given < call->positives
                                      ? &call->positive[c->given]
                                      : &call->negative[c->given - call->positives];
        g->regional[c->negative] |= c->has_area || from->mask;
        c->at = c->area;
        if (!ks_area_clip(&c->at, call->height, call->width))
            return ks_error_set(err,
                                "an area of %d x %d cells at line %d, cell %d lies outside the "
                                "latent of %d x %d cells",
                                c->area.h, c->area.w, c->area.y, c->area.x, call->height,
                                call->width);
    }
    return 0;
}

/* --- weights --- */

/* denoised = *x_weight * x + *out_weight * output. eps: x - sigma * output; v (Salimans & Ho 2022,
 * arXiv 2202.00512) for x scaled by sqrt(sigma^2 + 1). */
static void prediction_weights(ks_prediction prediction, double sigma, double *x_weight,
                               double *out_weight)
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

static void weigh_side(ks_guidance_set *g, bool negative, double sigma)
{
    double total = 1e-37 + strength_of_side(g, negative, sigma);
    g->evaluated[negative] = true;
    g->x_weight[negative] = 0;
    for (int i = 0; i < g->conditions; i++) {
        ks_condition *c = &g->condition[i];
        if (c->negative != negative || !is_active(c, sigma))
            continue;
        c->weight = c->strength / total * g->output_part;
        g->x_weight[negative] += c->strength / total * g->x_part;
        g->active[g->actives++] = i;
    }
}

void ks_guidance_weigh(ks_guidance_set *g, ks_prediction prediction, float sigma, bool both)
{
    g->actives = 0;
    g->evaluated[false] = g->evaluated[true] = false;
    prediction_weights(prediction, (double)sigma, &g->x_part, &g->output_part);
    if (g->cfg != 0 || both)
        weigh_side(g, false, (double)sigma);
    if (g->cfg != 1 || both)
        weigh_side(g, true, (double)sigma);
}
