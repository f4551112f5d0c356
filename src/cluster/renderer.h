/* One rank's engine with its model, or with its part of one and the ranks that have the others: points of a sweep in, latents and
 * pictures out.
 *
 * A point is one KSampler call: `batch` samples that differ only in their place in the latent's
 * batch. */
#ifndef KS_CLUSTER_RENDERER_H
#define KS_CLUSTER_RENDERER_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/error.h"
#include "cluster/replica.h"
#include "cluster/setup.h"
#include "sampling/engine.h"

/* Device memory for first rows that lanes share. */
enum { KS_SHARE_BYTES = 256 << 20 };

typedef struct ks_renderer ks_renderer;

typedef struct ks_rendered {
    uint64_t point;
    const float *latent; /* [batch, C, H, W]; NULL when it failed */
    const uint8_t *rgb;  /* [batch, 8H, 8W, 3], or NULL without images */
    int64_t nfe;
    const char *error; /* why it failed, or NULL */
} ks_rendered;

typedef struct ks_render_calls {
    void *self;
    int (*next)(void *self, uint64_t *point); /* 1 a point, 0 none now */
    /* The point that comes k points after the next one: 1, or 0 where that is not known; may be NULL. */
    int (*peek)(void *self, uint64_t k, uint64_t *point);
    int (*done)(void *self, const ks_rendered *result, ks_error *err);
    int (*poll)(void *self, bool idle, bool *finished,
                ks_error *err); /* as in engine.h; may be NULL */
} ks_render_calls;

/* Loads the model onto ops. images: its decoder as well. replica: the ranks that this one leads, or NULL: the whole model is here.
 * setup, ops and replica outlive it. */
ks_renderer *ks_renderer_new(ks_setup *setup, ks_ops *ops, ks_replica *replica, bool images, ks_error *err);
/* Plans calls of `rows` rows: once, before it runs. */
int ks_renderer_plan(ks_renderer *r, int rows, ks_error *err);
void ks_renderer_free(ks_renderer *r);

/* 0 done, 1 stopped, -1 error. */
int ks_renderer_run(ks_renderer *r, const ks_render_calls *calls, ks_error *err);
void ks_renderer_stats(const ks_renderer *r, ks_engine_stats *stats);
/* Seconds spent on decoding pictures, by the clock that network_seconds are of. */
double ks_renderer_decode_seconds(const ks_renderer *r);

#endif
