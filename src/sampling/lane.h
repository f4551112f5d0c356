/* A lane as the engine sees it: one KSampler call in flight, its sampler on a fiber. Samplers see
 * sampler.h. */
#ifndef KS_SAMPLING_LANE_H
#define KS_SAMPLING_LANE_H

#include "sampling/batcher.h"
#include "sampling/engine.h"
#include "sampling/fiber.h"
#include "sampling/guidance.h"
#include "sampling/pool.h"
#include "sampling/vectors.h"

struct ks_tensor {
    float *data; /* device [B, C, H, W] */
};

/* Why a lane's fiber has given control back. */
typedef enum ks_lane_state { KS_LANE_DENOISE, KS_LANE_NORM, KS_LANE_ENDED } ks_lane_state;

/* What ks_denoise asks for, and its rows: those of item i of the batch are row[i * actives ...]. */
typedef struct ks_denoise_request {
    ks_tensor *denoised, *uncond; /* uncond: NULL when not wanted */
    const ks_tensor *x;
    const float *seen; /* what the network sees: x, or with a noise mask what is put together */
    float sigma;
    ks_row **row; /* room for batch * conditions */
    int rows;
} ks_denoise_request;

typedef struct ks_norm_request {
    const ks_tensor *a, *b, *c;
    double atol, rtol;
    double mean_square; /* the answer */
} ks_norm_request;

/* Device memory beside the tensors. */
typedef struct ks_lane_piece {
    float *data;
    int64_t floats;
} ks_lane_piece;

/* The weights of a conditioning with an area or a mask. */
typedef struct ks_lane_map {
    float *data; /* device [count, at.h, at.w]; NULL: ones */
    int count;
} ks_lane_map;

/* A part of x that the network sees by itself. */
typedef struct ks_lane_crop {
    ks_window at;
    float *data; /* device [B, C, at.h, at.w] */
} ks_lane_crop;

/* Inpainting: at every evaluation the network sees x * mask + (noise * sigma + latent) * (1 -
 * mask), and its estimate is denoised * mask + latent * (1 - mask). */
typedef struct ks_lane_inpaint {
    float *mask; /* device [count, H, W]; NULL: no inpainting */
    int count;
    float *seen;           /* device [B, C, H, W], as are noise and latent */
    float *noise, *latent; /* NULL: zeros */
} ks_lane_inpaint;

struct ks_lane {
    struct ks_lane *next; /* among the unused */
    ks_fiber *fiber;
    ks_vectors *vectors; /* the engine's */
    ks_lane_state state;
    int status; /* what the sampler returned */
    ks_error err;

    ks_call call; /* its arrays are not kept: what is needed of them is below */
    ks_model_sampling model_sampling;
    double *sigma; /* [call.count] */
    ks_guidance_set guidance;
    int64_t item, elements; /* floats of one latent, of all B */

    ks_lane_map *map;   /* of each conditioning of the call */
    ks_lane_crop *crop; /* the different windows of the conditions */
    int crops;
    int *crop_of; /* of each condition; -1: it has the whole latent */
    ks_lane_inpaint inpaint;
    ks_lane_piece *piece; /* kept from call to call */
    int pieces, piece_room;

    ks_tensor *tensor; /* 0 is x, 1 the negative side's estimate, then the sampler's */
    int tensors, tensors_given, tensor_room;
    struct ks_lane_block *block; /* ks_lane_alloc's memory, kept from call to call */

    /* Noise inside the sampler: made on the host by generator and brownian, on the device by stream and tree. */
    ks_generator generator;
    bool generator_ready;
    ks_brownian *brownian;
    uint32_t *stream; /* device [KS_NOISE_STATE], the CPU generator's; NULL where the device does not draw from it */
    ks_brownian_tree tree;
    bool tree_ready;

    ks_denoise_request denoise;
    ks_norm_request norm;
    int64_t nfe;

    bool start_known; /* x is still what `start` names */
    ks_hash128 start; /* of all that decides x at the start */
    float *host;      /* [host_floats]: the start, then the result */
    int64_t host_floats;
    int finite;
};

/* An empty lane with its fiber. */
ks_lane *ks_lane_new(ks_vectors *vectors, ks_error *err);
void ks_lane_free(ks_lane *lane); /* after ks_lane_recycle */

/* Takes the call: copies what must last, makes the noised start or queues it. Needs call->count
 * >= 2. -1 without memory. */
int ks_lane_begin(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err);

/* Runs the sampler until it needs something: lane->state says what. */
void ks_lane_resume(ks_lane *lane);

/* Gives tensors back to the pool and forgets the call. Rows must have been released. */
void ks_lane_recycle(ks_lane *lane, ks_pool *pool);

/* Whether ops can make the draw. */
bool ks_lane_device_draws(const ks_lane *lane, const ks_draw *draw, const ks_ops *ops);

/* The draw as the device's operation, with its terms. -1 when the Brownian tree cannot be made. */
int ks_lane_noise_op(ks_lane *lane, const ks_draw *draw, ks_noise_op *op, ks_noise_term term[KS_BROWNIAN_TERMS], ks_error *err);

/* Draws into host. -1 when the Brownian tree cannot be made. */
int ks_lane_make_noise(ks_lane *lane, const ks_draw *draw, float *host, ks_error *err);

/* Queues out = scale * the noise that ks_noise_prepare makes + kept * out (kept 0: without out) of all of the lane; out:
 * device. false: ops cannot make it, or the host reaches its place in the generator's stream sooner. */
bool ks_lane_queue_noise(ks_lane *lane, const ks_ops *ops, float *out, uint64_t seed, const int64_t *batch_index, double scale,
                         double kept);

/* Host memory for the lane's latents. */
float *ks_lane_host(ks_lane *lane, int64_t floats);

/* Device memory that lasts until the lane is recycled. */
float *ks_lane_piece_new(ks_lane *lane, ks_pool *pool, int64_t floats, ks_error *err);

/* --- lane_regions.c --- */

/* What the call's areas, masks and noise mask need on the device. The guidance must be known. */
int ks_lane_regions_begin(ks_lane *lane, const ks_call *call, ks_pool *pool, ks_error *err);

#endif
