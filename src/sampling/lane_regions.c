/* What a lane's areas and masks need on the device: weights, windows of x, and what inpainting
 * keeps. */
#include <string.h>

#include "sampling/lane.h"
#include "sampling/regions.h"

/* --- weights --- */

static const ks_guidance *given_of(const ks_call *call, int given)
{
    return given < call->positives ? &call->positive[given]
                                   : &call->negative[given - call->positives];
}

/* The window of each of the masks [count, height, width]. */
static void cut_masks(const ks_guidance *from, const ks_call *call, ks_window at, float *out)
{
    for (int k = 0; k < from->masks; k++)
        for (int line = 0; line < at.h; line++) {
            ptrdiff_t y = (ptrdiff_t)k * call->height + at.y + line;
            memcpy(out, from->mask + y * call->width + at.x, (size_t)at.w * sizeof *out);
            out += at.w;
        }
}

/* Uploads the weights of a conditioning that has the window `at`. */
static int make_map(ks_lane *lane, const ks_call *call, int given, ks_window at, ks_pool *pool,
                    ks_error *err)
{
    const ks_guidance *from = given_of(call, given);
    ks_lane_map *map = &lane->map[given];
    map->count = from->mask ? from->masks : 1;
    int64_t floats = (int64_t)map->count * at.h * at.w;
    float *host = ks_lane_host(lane, floats);
    if (from->mask)
        cut_masks(from, call, at, host);
    else
        ks_area_feather(at, call->height, call->width, host);
    map->data = ks_lane_piece_new(lane, pool, floats, err);
    if (!map->data)
        return -1;
    pool->ops->upload(pool->ops, map->data, host, (size_t)floats * sizeof *host);
    return 0;
}

static bool is_whole(const ks_window *at, const ks_call *call)
{
    return at->h == call->height && at->w == call->width;
}

static int make_maps(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    int given = call->positives + call->negatives;
    lane->map = ks_lane_alloc(lane, (size_t)given * sizeof *lane->map);
    for (int i = 0; i < given; i++) {
        lane->map[i].count = 1;
        const ks_window *at = &lane->guidance.condition[i].at;
        bool plain = !given_of(call, i)->mask && is_whole(at, call);
        if (!plain && make_map(lane, call, i, *at, pool, err))
            return -1;
    }
    return 0;
}

/* --- windows of x --- */

/* The number of the window among the lane's crops, a new one if need be. */
static int crop_number(ks_lane *lane, const ks_window *at)
{
    for (int i = 0; i < lane->crops; i++)
        if (ks_area_equal(&lane->crop[i].at, at))
            return i;
    lane->crop[lane->crops].at = *at;
    return lane->crops++;
}

static int make_crops(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    const ks_guidance_set *g = &lane->guidance;
    lane->crop = ks_lane_alloc(lane, (size_t)g->conditions * sizeof *lane->crop);
    lane->crop_of = ks_lane_alloc(lane, (size_t)g->conditions * sizeof *lane->crop_of);
    lane->crops = 0;
    for (int i = 0; i < g->conditions; i++) {
        const ks_window *at = &g->condition[i].at;
        lane->crop_of[i] = is_whole(at, call) ? -1 : crop_number(lane, at);
    }
    for (int i = 0; i < lane->crops; i++) {
        ks_lane_crop *crop = &lane->crop[i];
        int64_t floats = (int64_t)call->batch * call->channels * crop->at.h * crop->at.w;
        crop->data = ks_lane_piece_new(lane, pool, floats, err);
        if (!crop->data)
            return -1;
    }
    return 0;
}

/* --- inpainting --- */

/* A copy of host memory on the device. */
static float *upload(ks_lane *lane, ks_pool *pool, const float *host, int64_t floats, ks_error *err)
{
    float *data = ks_lane_piece_new(lane, pool, floats, err);
    if (data)
        pool->ops->upload(pool->ops, data, host, (size_t)floats * sizeof *host);
    return data;
}

/* The noise of the kept part: the run's own, or that of the next seed. */
static int make_noise(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    bool second = call->sampler->second_noise;
    uint64_t seed = call->seed + second;
    const int64_t *batch_index = second ? NULL : call->batch_index;
    if (!second && !call->add_noise)
        return 0;
    lane->inpaint.noise = ks_lane_piece_new(lane, pool, lane->elements, err);
    if (!lane->inpaint.noise)
        return -1;
    if (ks_lane_queue_noise(lane, pool->ops, lane->inpaint.noise, seed, batch_index, 1, 0))
        return 0;
    float *host = ks_lane_host(lane, lane->elements);
    ks_noise_prepare(seed, call->batch, lane->item, batch_index, host);
    pool->ops->upload(pool->ops, lane->inpaint.noise, host, (size_t)lane->elements * sizeof *host);
    return 0;
}

static int upload_latent(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    float *host = ks_lane_host(lane, lane->elements);
    if (!call->latent)
        return 0;
    for (int64_t i = 0; i < lane->elements; i++)
        host[i] = (float)((double)call->latent[i] * call->latent_scale);
    lane->inpaint.latent = upload(lane, pool, host, lane->elements, err);
    return lane->inpaint.latent ? 0 : -1;
}

static int begin_inpaint(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    ks_lane_inpaint *p = &lane->inpaint;
    *p = (ks_lane_inpaint){.count = call->noise_masks};
    if (!call->noise_mask)
        return 0;
    int64_t cells = (int64_t)call->height * call->width;
    p->mask = upload(lane, pool, call->noise_mask, p->count * cells, err);
    p->seen = p->mask ? ks_lane_piece_new(lane, pool, lane->elements, err) : NULL;
    if (!p->seen)
        return -1;
    return make_noise(lane, call, pool, err) || upload_latent(lane, call, pool, err) ? -1 : 0;
}

int ks_lane_regions_begin(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err)
{
    return make_maps(lane, call, pool, err) || make_crops(lane, call, pool, err) ||
                   begin_inpaint(lane, call, pool, err)
               ? -1
               : 0;
}
