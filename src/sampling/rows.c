#include "sampling/rows.h"

#include <math.h>

/* --- request --- */

/* The key of a row of latent `item` under condition c: only a lane's first call has one. */
static ks_hash128 key_of_row(const ks_lane *lane, int item, const ks_net_row *net,
                             const ks_condition *c)
{
    struct {
        ks_hash128 start, cond;
        ks_window at;
        int32_t item, timestep;
        float scale, sigma;
    } all = {.start = lane->start,
             .cond = c->id,
             .at = c->at,
             .item = item,
             .timestep = net->timestep,
             .scale = net->scale,
             .sigma = lane->inpaint.mask ? lane->denoise.sigma : 0};
    return ks_hash(&all, sizeof all);
}

/* Puts together what the network sees: the kept part stays the input latent under its noise. */
static void see(ks_lane *lane)
{
    ks_denoise_request *d = &lane->denoise;
    const ks_lane_inpaint *p = &lane->inpaint;
    int64_t cells = (int64_t)lane->call.height * lane->call.width;
    d->seen = p->mask ? p->seen : d->x->data;
    for (int item = 0; p->mask && item < lane->call.batch; item++) {
        int64_t at = item * lane->item;
        ks_inpaint_op op = {.out = p->seen + at,
                            .x = d->x->data + at,
                            .mask = p->mask + item % p->count * cells,
                            .channels = lane->call.channels,
                            .cells = cells};
        if (p->noise) {
            op.coef[op.terms] = (double)d->sigma;
            op.in[op.terms++] = p->noise + at;
        }
        if (p->latent) {
            op.coef[op.terms] = 1;
            op.in[op.terms++] = p->latent + at;
        }
        ks_vectors_inpaint(lane->vectors, &op);
    }
}

static int64_t crop_floats(const ks_lane *lane, const ks_lane_crop *crop)
{
    return (int64_t)lane->call.channels * crop->at.h * crop->at.w;
}

/* Cuts out what the active conditions want to see of latent `item`. */
static void cut(ks_lane *lane, int item)
{
    const ks_guidance_set *g = &lane->guidance;
    for (int number = 0; number < lane->crops; number++) {
        const ks_lane_crop *crop = &lane->crop[number];
        bool wanted = false;
        for (int k = 0; k < g->actives; k++)
            wanted |= lane->crop_of[g->active[k]] == number;
        if (wanted)
            ks_vectors_crop(lane->vectors,
                            &(ks_crop){.out = crop->data + item * crop_floats(lane, crop),
                                       .x = lane->denoise.seen + item * lane->item,
                                       .channels = lane->call.channels,
                                       .height = lane->call.height,
                                       .width = lane->call.width,
                                       .at = crop->at});
    }
}

static const float *seen_by(const ks_lane *lane, int item, int condition)
{
    if (lane->crop_of[condition] < 0)
        return lane->denoise.seen + item * lane->item;
    const ks_lane_crop *crop = &lane->crop[lane->crop_of[condition]];
    return crop->data + item * crop_floats(lane, crop);
}

static int request_row(ks_lane *lane, ks_batcher *batcher, int item, int condition, bool keyed,
                       int64_t *saved, ks_error *err)
{
    ks_denoise_request *d = &lane->denoise;
    const ks_condition *c = &lane->guidance.condition[condition];
    double sigma = (double)d->sigma;
    ks_net_row net = {.x = seen_by(lane, item, condition),
                      .scale = (float)(1 / sqrt(sigma * sigma + 1)),
                      .timestep = ks_timestep_of_sigma(&lane->model_sampling, d->sigma),
                      .cond = c->cond,
                      .height = c->at.h,
                      .width = c->at.w};
    ks_hash128 key = keyed ? key_of_row(lane, item, &net, c) : (ks_hash128){{0}};
    bool there;
    ks_row *row = ks_batcher_request(batcher, &net, keyed ? &key : NULL, &there, err);
    if (!row)
        return ks_error_wrap(err, "a row of a network call");
    d->row[d->rows++] = row;
    *saved += there;
    return 0;
}

int ks_rows_request(ks_lane *lane, ks_batcher *batcher, bool sharing, int64_t *saved, ks_error *err)
{
    ks_guidance_set *g = &lane->guidance;
    ks_denoise_request *d = &lane->denoise;
    bool keyed = sharing && lane->nfe == 0 && lane->start_known && d->x == &lane->tensor[0];
    ks_guidance_weigh(g, lane->model_sampling.prediction, d->sigma, d->uncond != NULL);
    see(lane);
    for (int item = 0; item < lane->call.batch; item++) {
        cut(lane, item);
        for (int k = 0; k < g->actives; k++)
            if (request_row(lane, batcher, item, g->active[k], keyed, saved, err))
                return -1;
    }
    return 0;
}

/* --- answer --- */

bool ks_rows_done(const ks_lane *lane)
{
    for (int i = 0; i < lane->denoise.rows; i++)
        if (!lane->denoise.row[i]->done)
            return false;
    return true;
}

void ks_rows_release(ks_lane *lane, ks_batcher *batcher)
{
    while (lane->denoise.rows > 0)
        ks_batcher_release(batcher, lane->denoise.row[--lane->denoise.rows]);
}

/* Queues the estimate of a side without areas and masks for one latent. */
static void combine_side(const ks_lane *lane, int item, bool negative, float *out)
{
    const ks_guidance_set *g = &lane->guidance;
    ks_lincomb_op *op = ks_vectors_combine(lane->vectors, out, lane->item);
    if (g->x_weight[negative] != 0)
        ks_combine_term(op, g->x_weight[negative], lane->denoise.seen + item * lane->item);
    for (int k = 0; k < g->actives; k++) {
        const ks_condition *c = &g->condition[g->active[k]];
        if (c->negative != negative || c->weight == 0)
            continue;
        if (op->terms == KS_LINCOMB_TERMS) {
            op = ks_vectors_combine(lane->vectors, out, lane->item);
            ks_combine_term(op, 1, out);
        }
        ks_combine_term(op, c->weight, lane->denoise.row[item * g->actives + k]->net.out);
    }
}

/* The same of a side that has areas or masks. */
static void blend_side(const ks_lane *lane, int item, bool negative, float *out)
{
    const ks_guidance_set *g = &lane->guidance;
    ks_vectors_blend(lane->vectors, &(ks_blend_op){.out = out,
                                                   .x = lane->denoise.seen + item * lane->item,
                                                   .channels = lane->call.channels,
                                                   .height = lane->call.height,
                                                   .width = lane->call.width,
                                                   .x_coef = g->x_part,
                                                   .in_coef = g->output_part});
    for (int k = 0; k < g->actives; k++) {
        const ks_condition *c = &g->condition[g->active[k]];
        const ks_lane_map *map = &lane->map[c->given];
        if (c->negative != negative)
            continue;
        int64_t cells = (int64_t)c->at.h * c->at.w;
        ks_blend_part part = {.at = c->at,
                              .in = lane->denoise.row[item * g->actives + k]->net.out,
                              .map = map->data ? map->data + item % map->count * cells : NULL,
                              .scale = c->strength};
        ks_vectors_blend_part(lane->vectors, &part);
    }
}

static void estimate_side(const ks_lane *lane, int item, bool negative, ks_tensor *tensor)
{
    float *out = tensor->data + item * lane->item;
    if (lane->guidance.regional[negative])
        blend_side(lane, item, negative, out);
    else
        combine_side(lane, item, negative, out);
}

/* The kept part of the guided estimate is the input latent. */
static void keep(const ks_lane *lane, ks_tensor *denoised)
{
    const ks_lane_inpaint *p = &lane->inpaint;
    int64_t cells = (int64_t)lane->call.height * lane->call.width;
    for (int item = 0; p->mask && item < lane->call.batch; item++) {
        float *at = denoised->data + item * lane->item;
        ks_inpaint_op op = {.out = at,
                            .x = at,
                            .mask = p->mask + item % p->count * cells,
                            .channels = lane->call.channels,
                            .cells = cells};
        if (p->latent) {
            op.coef[op.terms] = 1;
            op.in[op.terms++] = p->latent + item * lane->item;
        }
        ks_vectors_inpaint(lane->vectors, &op);
    }
}

/* denoised may be x, so it is written last. */
void ks_rows_answer(ks_lane *lane, ks_batcher *batcher)
{
    const ks_guidance_set *g = &lane->guidance;
    ks_tensor *denoised = lane->denoise.denoised, *uncond = lane->denoise.uncond;
    if (!uncond)
        uncond = g->evaluated[false] ? &lane->tensor[1] : denoised;
    for (int item = 0; item < lane->call.batch; item++) {
        if (g->evaluated[true])
            estimate_side(lane, item, true, uncond);
        if (g->evaluated[false])
            estimate_side(lane, item, false, denoised);
    }
    if (g->evaluated[false] && g->evaluated[true]) {
        ks_lincomb_op *op = ks_vectors_combine(lane->vectors, denoised->data, lane->elements);
        ks_combine_term(op, g->cfg, denoised->data);
        ks_combine_term(op, 1 - g->cfg, uncond->data);
    }
    keep(lane, denoised);
    ks_rows_release(lane, batcher);
}
