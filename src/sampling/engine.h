/* The lane engine: many KSampler calls in flight, one full network call after another.
 *
 * Every lane runs its sampler on a fiber. When it asks for a denoised latent it is suspended and
 * its rows (one a latent and active conditioning) wait in a queue; the engine fills each call of
 * `rows` rows with the oldest waiting rows of any lanes, whatever their sampler, step, sigma, cfg
 * or prompt. A lane that ends makes room for the next at once. Guidance (classifier-free: Ho &
 * Salimans 2022, arXiv 2207.12598) is applied when a lane's last row has come.
 *
 * A conditioning with an area has a row of that part of the latent. Rows of different sizes make
 * calls of their own: a full one goes first, and none waits long for others of its size.
 *
 * Lanes that begin alike (same seed, latent, mask and first sigma) share the rows of their first
 * network call that have the same conditioning and area. A lane's bits depend on neither that nor
 * on its neighbours. */
#ifndef KS_SAMPLING_ENGINE_H
#define KS_SAMPLING_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "backend/ops.h"
#include "base/error.h"
#include "base/hash.h"
#include "sampling/noise.h"
#include "sampling/sampler.h"
#include "sampling/schedule.h"

/* One conditioning of a side. denoised = sum(w_k * denoised_k) / sum(w_k) in every cell over the
 * active ones, which are those with percent_to_sigma(end_percent) <= sigma <=
 * percent_to_sigma(start_percent). w_k is the strength, times mask * mask_strength with a mask, and
 * fades out towards the inner edges of an area without one. */
typedef struct ks_guidance {
    const struct ks_cond *cond; /* the model's; must live until the lane has ended */
    ks_hash128 id;              /* of its content: rows with equal x and cond are the same row */
    double strength;            /* 1 */
    double start_percent, end_percent; /* 0, 1 */
    bool has_area; /* the network looks at `area` alone, in cells; it may reach beyond the latent */
    ks_window area;
    const float *mask; /* host [masks, H, W] or NULL; latent i of the batch takes i mod masks */
    int masks;
    double mask_strength;
} ks_guidance;

/* One KSampler call: everything is copied at start but for the conds. */
typedef struct ks_call {
    const ks_sampler *sampler;
    const ks_model_sampling *model_sampling;
    const float *sigmas; /* [count], as used; count <= 1: the latent is returned untouched */
    int count;
    double cfg; /* 1 (up to 1e-9): the negatives are not evaluated */
    uint64_t seed;
    int batch, channels, height, width; /* in cells; in flight all have one item shape */
    const float *latent;                /* host [B,C,H,W] in ComfyUI units, or NULL for zeros */
    const int64_t *batch_index;         /* [B] or NULL */
    double latent_scale;                /* 0.18215, 0.13025 */
    const float *noise_mask; /* host [noise_masks, H, W] or NULL: 0 keeps the latent, 1 renders
                              * it anew; latent i of the batch takes number i mod noise_masks */
    int noise_masks;
    bool add_noise;
    ks_noise_device noise_device;
    int positives, negatives;
    const ks_guidance *positive, *negative;
    void *tag; /* the caller's, comes back in ks_result */
} ks_call;

typedef struct ks_result {
    void *tag;
    const float *latent; /* host [B,C,H,W], ComfyUI units; valid during the callback only */
    int64_t nfe;         /* network evaluations (denoised estimates) of this call */
    const char *error;   /* NULL, or why the sample failed: there is no latent then */
} ks_result;

/* What the engine asks of the outside. */
typedef struct ks_engine_calls {
    void *self;
    /* Next call to start into *call: 1 filled, 0 none now, -1 failed. What *call points to must
     * live until next is called again, conds until the lane ends. Called whenever there is room. */
    int (*next)(void *self, ks_call *call, ks_error *err);
    /* A call has ended; on a device that works while the host goes on, this is told when its next network call has been
     * queued. -1 stops the engine. */
    int (*done)(void *self, const ks_result *result, ks_error *err);
    /* Runs n (1..rows) rows of one height and width; the implementation pads to its fixed number.
     * Queues on ops, need not wait. */
    int (*network)(void *self, const ks_net_row *rows, int n, ks_error *err);
    /* Called between network calls (may be NULL): 0 go on, 1 stop soon (drop what is in flight), -1
     * failed. idle: nothing is in flight, the callee may wait a little for work. *finished is set
     * to true by it when no work will come. */
    int (*poll)(void *self, bool idle, bool *finished, ks_error *err);
} ks_engine_calls;

typedef struct ks_engine_stats {
    int64_t calls;                             /* network calls */
    int64_t rows;                              /* rows computed */
    int64_t slots;                             /* calls * rows per call */
    int64_t rows_saved;                        /* rows that an earlier equal first row answered */
    int64_t rows_before_dry, slots_before_dry; /* counted until next() first gave 0 */
    double seconds;         /* of ks_engine_run, when it is over */
    double network_seconds; /* of the calls_timed oldest calls: on a GPU by its own clock, which lags behind */
    int64_t calls_timed;
} ks_engine_stats;

typedef struct ks_engine ks_engine;

/* rows: rows of every network call. ops outlives the engine. share_bytes: device memory for
 * first-call sharing, 0 for none. NULL and err without memory. */
ks_engine *ks_engine_new(ks_ops *ops, int rows, size_t share_bytes, ks_error *err);
void ks_engine_free(ks_engine *engine);

/* Runs until poll says finished (or, without poll, until next gives 0 and nothing is in flight). 0
 * done, 1 stopped, -1 error; whatever was in flight is dropped. */
int ks_engine_run(ks_engine *engine, const ks_engine_calls *calls, ks_error *err);

void ks_engine_stats_get(const ks_engine *engine, ks_engine_stats *stats);

#endif
