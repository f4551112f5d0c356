#include "sampling/engine.h"

#include <stdlib.h>

#include "backend/pace.h"
#include "base/file.h"
#include "sampling/lane.h"
#include "sampling/rows.h"

typedef struct ks_device_clock {
    double seconds;
    int64_t calls;
} ks_device_clock;

struct ks_engine {
    ks_ops *ops;
    int rows;
    bool sharing;
    ks_pool pool;
    ks_vectors vectors;
    ks_batcher batcher;
    ks_lane **lane; /* in flight, in the order they started */
    int lanes, lane_room;
    ks_lane *unused;
    ks_lane *leaving, **leaving_end; /* ended lanes whose results are under way to the host, oldest first */
    uint64_t leaving_fence;          /* they are there by then */
    ks_pace pace;                    /* of network calls */
    ks_net_row *net;             /* [rows] of the call being made */
    int channels, height, width; /* of every latent in flight */
    bool dry;                    /* next() has once given nothing */
    ks_device_clock clock; /* when the engine was made */
    ks_engine_stats stats;
};

/* What the device's clock says of its network calls so far; zeros where it has none. */
static ks_device_clock device_clock(const ks_engine *e)
{
    ks_device_clock at = {0};
    if (e->ops->clock_seconds)
        at.seconds = e->ops->clock_seconds(e->ops, KS_CLOCK_NETWORK, &at.calls);
    return at;
}

/* The network's time and the calls that it is of: the device's where it has a clock, for there the host's says nothing. */
static void read_clock(const ks_engine *e, ks_engine_stats *stats)
{
    if (!e->ops->clock_seconds) {
        stats->calls_timed = stats->calls;
        return;
    }
    ks_device_clock now = device_clock(e);
    stats->network_seconds = now.seconds - e->clock.seconds;
    stats->calls_timed = now.calls - e->clock.calls;
}

ks_engine *ks_engine_new(ks_ops *ops, int rows, size_t share_bytes, ks_error *err)
{
    if (rows < 1) {
        ks_error_set(err,
                     "the lane engine cannot make network calls of %d rows; at least 1 is needed",
                     rows);
        return NULL;
    }
    ks_engine *e = ks_calloc(1, sizeof *e);
    e->ops = ops;
    e->rows = rows;
    e->sharing = share_bytes > 0;
    e->pool.ops = ops;
    e->batcher.pool = &e->pool;
    e->batcher.share_bytes = share_bytes;
    e->net = ks_calloc((size_t)rows, sizeof *e->net);
    e->leaving_end = &e->leaving;
    e->clock = device_clock(e);
    return e;
}

void ks_engine_stats_get(const ks_engine *engine, ks_engine_stats *stats)
{
    *stats = engine->stats;
    read_clock(engine, stats);
}

/* Runs the lane until it waits for a network call, a norm, or has ended. */
static int advance(ks_engine *e, ks_lane *lane, ks_error *err)
{
    for (;;) {
        ks_lane_resume(lane);
        if (lane->state != KS_LANE_DENOISE)
            return 0;
        if (ks_rows_request(lane, &e->batcher, e->sharing, &e->stats.rows_saved, err))
            return -1;
        if (!ks_rows_done(lane))
            return 0;
        ks_rows_answer(lane, &e->batcher);
    }
}

/* --- starting --- */

/* Tells the caller of a call that needs no lane. */
static int answer_untouched(const ks_engine_calls *calls, const ks_call *call, ks_error *err)
{
    size_t floats =
        (size_t)call->batch * (size_t)call->channels * (size_t)call->height * (size_t)call->width;
    float *zeros = call->latent ? NULL : ks_calloc(floats, sizeof *zeros);
    ks_result result = {.tag = call->tag, .latent = call->latent ? call->latent : zeros};
    int status = calls->done(calls->self, &result, err);
    free(zeros);
    return status;
}

/* The latents in flight have one shape. */
static bool shape_fits(ks_engine *e, const ks_call *call)
{
    if (e->lanes > 0)
        return call->channels == e->channels && call->height == e->height &&
               call->width == e->width;
    e->channels = call->channels;
    e->height = call->height;
    e->width = call->width;
    ks_batcher_channels(&e->batcher, call->channels);
    return true;
}

static int refuse_shape(ks_engine *e, const ks_engine_calls *calls, const ks_call *call,
                        ks_error *err)
{
    ks_error why;
    ks_error_set(&why,
                 "a latent of %dx%dx%d while latents of %dx%dx%d are in flight: one run has one "
                 "latent shape",
                 call->channels, call->height, call->width, e->channels, e->height, e->width);
    ks_result result = {.tag = call->tag, .error = why.text};
    return calls->done(calls->self, &result, err);
}

/* An unused lane, put among those in flight. */
static ks_lane *add_lane(ks_engine *e, ks_error *err)
{
    ks_lane *lane = e->unused;
    if (lane)
        e->unused = lane->next;
    else if (!(lane = ks_lane_new(&e->vectors, err)))
        return NULL;
    if (e->lanes == e->lane_room) {
        e->lane_room = e->lane_room ? 2 * e->lane_room : 16;
        e->lane = ks_realloc(e->lane, (size_t)e->lane_room, sizeof(ks_lane *));
    }
    e->lane[e->lanes++] = lane;
    return lane;
}

static int start(ks_engine *e, const ks_engine_calls *calls, const ks_call *call, ks_error *err)
{
    if (call->count <= 1)
        return answer_untouched(calls, call, err);
    if (!shape_fits(e, call))
        return refuse_shape(e, calls, call, err);
    ks_lane *lane = add_lane(e, err);
    if (!lane || ks_lane_begin(lane, call, &e->pool, err))
        return -1;
    return advance(e, lane, err);
}

/* Whether more calls would help: no network call is full yet, and not too many rows wait for others
 * of their size. */
static bool wants_more(const ks_engine *e)
{
    enum { SIZES = 4 };
    return ks_batcher_fullest(&e->batcher) < e->rows && e->batcher.waiting < SIZES * e->rows;
}

/* Starts calls until the next network call is full or there are none. */
static int fill(ks_engine *e, const ks_engine_calls *calls, bool *empty, ks_error *err)
{
    *empty = false;
    while (wants_more(e)) {
        ks_call call = {0};
        int status = calls->next(calls->self, &call, err);
        if (status < 0)
            return -1;
        *empty = status == 0;
        e->dry = e->dry || *empty;
        if (*empty)
            return 0;
        if (start(e, calls, &call, err))
            return -1;
    }
    return 0;
}

/* --- ending and reading back --- */

/* Answers the lanes that wait for an error norm, until none does. */
static int answer_norms(ks_engine *e, ks_error *err)
{
    for (;;) {
        int waiting = 0;
        for (int i = 0; i < e->lanes; i++)
            waiting += e->lane[i]->state == KS_LANE_NORM;
        if (waiting == 0)
            return 0;
        if (ks_vectors_flush(&e->vectors, e->ops, err))
            return -1;
        for (int i = 0; i < e->lanes; i++) {
            ks_lane *lane = e->lane[i];
            ks_norm_request *q = &lane->norm;
            if (lane->state == KS_LANE_NORM)
                e->ops->error_norm(e->ops, &q->mean_square, q->a->data, q->b->data, q->c->data,
                                   lane->elements, q->atol, q->rtol);
        }
        if (e->ops->sync(e->ops, err))
            return -1;
        for (int i = 0; i < e->lanes; i++)
            if (e->lane[i]->state == KS_LANE_NORM && advance(e, e->lane[i], err))
                return -1;
    }
}

/* Queues what the host must see of an ended lane. */
static void read_result(ks_engine *e, ks_lane *lane)
{
    const float *x = lane->tensor[0].data;
    lane->finite = 0;
    e->ops->all_finite(e->ops, &lane->finite, x, lane->elements);
    e->ops->download(e->ops, ks_lane_host(lane, lane->elements), x,
                     (size_t)lane->elements * sizeof(float));
}

static int tell_result(const ks_engine_calls *calls, ks_lane *lane, ks_error *err)
{
    ks_result result = {.tag = lane->call.tag, .nfe = lane->nfe};
    if (lane->status)
        result.error = lane->err.text;
    else if (!lane->finite)
        result.error = "the latent is not finite (NaN or infinity)";
    if (!result.error) {
        for (int64_t i = 0; i < lane->elements; i++)
            lane->host[i] = (float)((double)lane->host[i] / lane->call.latent_scale);
        result.latent = lane->host;
    }
    return calls->done(calls->self, &result, err);
}

static void recycle(ks_engine *e, ks_lane *lane)
{
    ks_lane_recycle(lane, &e->pool);
    lane->next = e->unused;
    e->unused = lane;
}

/* Gives the results that are under way to the caller, when they have come, and makes room for others. */
static int deliver(ks_engine *e, const ks_engine_calls *calls, ks_error *err)
{
    if (!e->leaving)
        return 0;
    int status = e->ops->wait ? e->ops->wait(e->ops, e->leaving_fence, err) : e->ops->sync(e->ops, err);
    while (e->leaving) {
        ks_lane *lane = e->leaving;
        e->leaving = lane->next;
        if (status == 0)
            status = tell_result(calls, lane, err);
        recycle(e, lane);
    }
    e->leaving_end = &e->leaving;
    return status;
}

/* Puts the ended lanes among those that leave. */
static void take_out_ended(ks_engine *e)
{
    int kept = 0;
    for (int i = 0; i < e->lanes; i++) {
        ks_lane *lane = e->lane[i];
        if (lane->state != KS_LANE_ENDED) {
            e->lane[kept++] = lane;
            continue;
        }
        if (lane->status == 0)
            read_result(e, lane);
        lane->next = NULL;
        *e->leaving_end = lane;
        e->leaving_end = &lane->next;
    }
    e->lanes = kept;
}

/* Sends the results of ended lanes to the host. A device that works while the host goes on gets its next network call before
 * they are waited for; any other has them at once. */
static int finish_ended(ks_engine *e, const ks_engine_calls *calls, ks_error *err)
{
    int ended = 0;
    for (int i = 0; i < e->lanes; i++)
        ended += e->lane[i]->state == KS_LANE_ENDED;
    if (ended == 0)
        return 0;
    if (ks_vectors_flush(&e->vectors, e->ops, err))
        return -1;
    take_out_ended(e);
    if (!e->ops->fence)
        return deliver(e, calls, err);
    e->leaving_fence = e->ops->fence(e->ops);
    return 0;
}

/* --- the loop --- */

static int call_network(ks_engine *e, const ks_engine_calls *calls, ks_error *err)
{
    if (ks_vectors_flush(&e->vectors, e->ops, err))
        return -1;
    double begin = ks_seconds();
    int n = ks_batcher_take(&e->batcher, e->net, e->rows);
    int status = calls->network(calls->self, e->net, n, err);
    e->stats.network_seconds += ks_seconds() - begin;
    if (status == 0)
        status = ks_pace_call(&e->pace, e->ops, err);
    e->stats.calls++;
    e->stats.rows += n;
    e->stats.slots += e->rows;
    if (!e->dry) {
        e->stats.rows_before_dry = e->stats.rows;
        e->stats.slots_before_dry = e->stats.slots;
    }
    return status;
}

/* Lets the lanes go on whose rows have come. */
static int advance_all(ks_engine *e, ks_error *err)
{
    for (int i = 0; i < e->lanes; i++) {
        ks_lane *lane = e->lane[i];
        if (lane->state != KS_LANE_DENOISE || !ks_rows_done(lane))
            continue;
        ks_rows_answer(lane, &e->batcher);
        if (advance(e, lane, err))
            return -1;
    }
    return 0;
}

static int settle(ks_engine *e, const ks_engine_calls *calls, ks_error *err)
{
    return answer_norms(e, err) || finish_ended(e, calls, err) ? -1 : 0;
}

static int run(ks_engine *e, const ks_engine_calls *calls, ks_error *err)
{
    bool finished = !calls->poll, empty;
    for (;;) {
        if (fill(e, calls, &empty, err) || settle(e, calls, err))
            return -1;
        if (e->lanes == 0 && deliver(e, calls, err))
            return -1;
        if (finished && empty && e->lanes == 0)
            return 0;
        int status = calls->poll ? calls->poll(calls->self, e->lanes == 0, &finished, err) : 0;
        if (status)
            return status;
        if (e->lanes == 0)
            continue;
        if (call_network(e, calls, err) || deliver(e, calls, err) || advance_all(e, err) || settle(e, calls, err))
            return -1;
    }
}

/* Drops all that is in flight. */
static void drop(ks_engine *e)
{
    ks_vectors_drop(&e->vectors);
    ks_batcher_forget(&e->batcher);
    while (e->leaving) {
        ks_lane *lane = e->leaving;
        e->leaving = lane->next;
        recycle(e, lane);
    }
    e->leaving_end = &e->leaving;
    for (int i = 0; i < e->lanes; i++) {
        ks_rows_release(e->lane[i], &e->batcher);
        recycle(e, e->lane[i]);
    }
    e->lanes = 0;
}

int ks_engine_run(ks_engine *engine, const ks_engine_calls *calls, ks_error *err)
{
    double begin = ks_seconds();
    int status = run(engine, calls, err);
    if (status > 0 && deliver(engine, calls, err)) /* what had ended before the stop is kept */
        status = -1;
    drop(engine);
    engine->stats.seconds += ks_seconds() - begin;
    return status;
}

void ks_engine_free(ks_engine *engine)
{
    if (!engine)
        return;
    drop(engine);
    while (engine->unused) {
        ks_lane *lane = engine->unused;
        engine->unused = lane->next;
        ks_lane_free(lane);
    }
    ks_batcher_clear(&engine->batcher);
    ks_pool_clear(&engine->pool);
    ks_vectors_clear(&engine->vectors);
    free(engine->lane);
    free(engine->net);
    free(engine);
}
