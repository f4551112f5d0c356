#include "cluster/renderer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "model/model.h"

enum { CELL = 8 };

/* A KSampler call in flight: what must live as long as its lane. */
typedef struct flight {
    uint64_t point;
    ks_guidance *guidance; /* positives, then negatives */
    int count;
} flight;

struct ks_renderer {
    ks_setup *setup;
    ks_ops *ops;
    ks_replica *replica; /* or NULL */
    ks_model *model;
    ks_engine *engine;
    const ks_render_calls *calls;
    float *sigmas; /* of the call that was handed out last */
    uint8_t *rgb;  /* [batch, 8H, 8W, 3], or NULL */
    double decode_seconds;
    int calls_since_ahead; /* network calls since texts were last encoded ahead */
};

ks_renderer *ks_renderer_new(ks_setup *setup, ks_ops *ops, ks_replica *replica, bool images, ks_error *err)
{
    ks_renderer *r = ks_calloc(1, sizeof *r);
    const int *shape = setup->shape;
    r->setup = setup;
    r->ops = ops;
    r->replica = replica;
    if (images)
        r->rgb = ks_calloc((size_t)shape[0] * (size_t)shape[2] * (size_t)shape[3], CELL * CELL * 3);
    int parts = (setup->texts ? KS_LOAD_TEXT : 0) | (images ? KS_LOAD_VAE : 0);
    r->model = ks_model_load(setup->file, &setup->config, ops, replica ? ks_replica_split(replica) : NULL, parts, setup->tokenizer, err);
    if (!r->model) {
        ks_error_wrap(err, "%s", setup->job->model);
        ks_renderer_free(r);
        return NULL;
    }
    return r;
}

int ks_renderer_plan(ks_renderer *r, int rows, ks_error *err)
{
    const int *shape = r->setup->shape;
    if (r->replica ? ks_replica_plan(r->replica, r->model, rows, shape[2], shape[3], err)
                   : ks_model_plan(r->model, rows, shape[2], shape[3], err))
        return ks_error_wrap(err, "%s", r->setup->job->model);
    r->engine = ks_engine_new(r->ops, rows, KS_SHARE_BYTES, err);
    return r->engine ? 0 : ks_error_wrap(err, "%s", r->setup->job->model);
}

void ks_renderer_free(ks_renderer *r)
{
    if (!r)
        return;
    ks_engine_free(r->engine);
    ks_conditions_free(r->setup->conditions); /* its conds belong to the model */
    r->setup->conditions = NULL;
    ks_model_free(r->model);
    free(r->sigmas);
    free(r->rgb);
    free(r);
}

static void flight_free(ks_renderer *r, flight *f)
{
    ks_conditions_give(r->setup->conditions, f->guidance, f->count);
    free(f->guidance);
    free(f);
}

/* Prepares both sides of the sample; *positives is the number of the first side's. */
static flight *take_off(ks_renderer *r, const ks_sample *sample, int *positives, ks_error *err)
{
    const ks_job *job = r->setup->job;
    const ks_conditioning *positive = &job->positive[sample->positive];
    const ks_conditioning *negative = &job->negative[sample->negative];
    ks_conditions *c = r->setup->conditions;
    flight *f = ks_calloc(1, sizeof *f);
    f->guidance = ks_calloc((size_t)(positive->count + negative->count), sizeof *f->guidance);
    if (ks_conditions_take(c, r->model, positive, f->guidance, err))
        goto failed;
    f->count = positive->count;
    if (ks_conditions_take(c, r->model, negative, f->guidance + f->count, err))
        goto failed;
    f->count += negative->count;
    *positives = positive->count;
    return f;
failed:
    flight_free(r, f);
    return NULL;
}

/* The schedule of a sample. One that cannot be made fails that sample alone: *why is then set. */
static int schedule_of(ks_renderer *r, const ks_sample *sample, int *count, ks_error *why)
{
    free(r->sigmas);
    r->sigmas = NULL;
    if (ks_schedule(&r->setup->sampling, sample->scheduler, sample->steps, sample->denoise,
                    ks_sampler_at(sample->sampler)->discard_penultimate, &r->sigmas, count, why))
        return -1;
    const ks_job *job = r->setup->job;
    *count = ks_schedule_cut(r->sigmas, *count, job->start_at_step, job->end_at_step,
                             job->leftover_noise);
    return 0;
}

static int fail_sample(ks_renderer *r, uint64_t point, const char *why, ks_error *err)
{
    ks_rendered result = {.point = point, .error = why};
    return r->calls->done(r->calls->self, &result, err);
}

static int fill_call(ks_renderer *r, uint64_t point, const ks_sample *sample, int count,
                     ks_call *call, ks_error *err)
{
    const ks_setup *s = r->setup;
    int positives;
    flight *f = take_off(r, sample, &positives, err);
    if (!f)
        return -1;
    f->point = point;
    const ks_latent_ref *ref = &s->job->latent[sample->latent];
    *call = (ks_call){
        .sampler = ks_sampler_at(sample->sampler),
        .model_sampling = &s->sampling,
        .sigmas = r->sigmas,
        .count = count,
        .cfg = sample->cfg,
        .seed = sample->seed,
        .batch = s->shape[0],
        .channels = s->shape[1],
        .height = s->shape[2],
        .width = s->shape[3],
        .batch_index = ref->batch_index,
        .latent_scale = s->config.latent_scale_factor,
        .add_noise = s->job->add_noise,
        .noise_device = s->job->noise,
        .positives = positives,
        .negatives = f->count - positives,
        .positive = f->guidance,
        .negative = f->guidance + positives,
        .tag = f,
    };
    if (!ks_input_latents_get(s->latents, sample->latent, &call->latent, err) &&
        !ks_input_latents_mask(s->latents, sample->latent, &call->noise_mask, &call->noise_masks,
                               err))
        return 1;
    flight_free(r, f);
    return -1;
}

static int engine_next(void *self, ks_call *call, ks_error *err)
{
    ks_renderer *r = self;
    uint64_t point;
    while (r->calls->next(r->calls->self, &point)) {
        ks_sample sample;
        ks_error why = KS_ERROR_NONE;
        int count;
        ks_job_sample(r->setup->job, point * (uint64_t)r->setup->shape[0], &sample);
        if (!schedule_of(r, &sample, &count, &why))
            return fill_call(r, point, &sample, count, call, err);
        if (fail_sample(r, point, why.text, err))
            return -1;
    }
    return 0;
}

static int decode(ks_renderer *r, const float *latent, ks_error *err)
{
    const int *shape = r->setup->shape;
    double start = ks_seconds();
    int rc = ks_model_decode(r->model, latent, shape[0], shape[2], shape[3], r->rgb, NULL, err);
    r->decode_seconds += ks_seconds() - start;
    return rc ? ks_error_wrap(err, "decoding") : 0;
}

static int engine_done(void *self, const ks_result *result, ks_error *err)
{
    ks_renderer *r = self;
    flight *f = result->tag;
    ks_rendered out = {.point = f->point, .nfe = result->nfe, .error = result->error};
    flight_free(r, f);
    if (!out.error) {
        out.latent = result->latent;
        out.rgb = r->rgb;
        if (r->rgb && decode(r, out.latent, err))
            return -1;
    }
    return r->calls->done(r->calls->self, &out, err);
}

/* Queues the texts of the points that come next behind a network call, where the device works while the host goes on: lanes that
 * start later need not wait for them. The engine waits for a call before it queues the one after the next, so what was queued
 * two calls ago is there. */
static int look_ahead(ks_renderer *r, ks_error *err)
{
    enum { POINTS = 32 };
    const ks_job *job = r->setup->job;
    ks_conditions *c = r->setup->conditions;
    if (!r->ops->fence || !r->calls->peek || !r->setup->texts)
        return 0;
    if (ks_conditions_on_their_way(c)) {
        if (++r->calls_since_ahead < 2)
            return 0;
        if (ks_conditions_settle(c, r->model, err))
            return -1;
    }
    r->calls_since_ahead = 0;
    uint64_t point;
    for (uint64_t k = 0; k < POINTS && r->calls->peek(r->calls->self, k, &point); k++) {
        ks_sample sample;
        ks_job_sample(job, point * (uint64_t)r->setup->shape[0], &sample);
        if (ks_conditions_encode_ahead(c, r->model, &job->positive[sample.positive], err) ||
            ks_conditions_encode_ahead(c, r->model, &job->negative[sample.negative], err))
            return -1;
    }
    return 0;
}

static int engine_network(void *self, const ks_net_row *rows, int n, ks_error *err)
{
    ks_renderer *r = self;
    int rc = r->replica ? ks_replica_rows(r->replica, rows, n, err) : ks_model_rows(r->model, rows, n, err);
    return rc || look_ahead(r, err) ? -1 : 0;
}

static int engine_poll(void *self, bool idle, bool *finished, ks_error *err)
{
    ks_renderer *r = self;
    return r->calls->poll(r->calls->self, idle, finished, err);
}

int ks_renderer_run(ks_renderer *r, const ks_render_calls *calls, ks_error *err)
{
    r->calls = calls;
    ks_engine_calls engine = {.self = r,
                              .next = engine_next,
                              .done = engine_done,
                              .network = engine_network,
                              .poll = calls->poll ? engine_poll : NULL};
    return ks_engine_run(r->engine, &engine, err);
}

void ks_renderer_stats(const ks_renderer *r, ks_engine_stats *stats)
{
    ks_engine_stats_get(r->engine, stats);
}

double ks_renderer_decode_seconds(const ks_renderer *r)
{
    int64_t pictures;
    return r->ops->clock_seconds ? r->ops->clock_seconds(r->ops, KS_CLOCK_DECODE, &pictures) : r->decode_seconds;
}
