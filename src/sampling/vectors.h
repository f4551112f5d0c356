/* Vector operations that samplers have asked for and the device has not yet been given.
 *
 * All lanes append to one queue; a flush hands it over in order, the draws of all lanes in one ops->noise and every linear
 * combination in one ops->lincomb where it can. What the device cannot draw is made on the host and uploaded in its place;
 * windows and masks are cut, blended and filled in theirs. */
#ifndef KS_SAMPLING_VECTORS_H
#define KS_SAMPLING_VECTORS_H

#include <stdbool.h>

#include "backend/ops.h"

typedef struct ks_draw {
    float *out;
    int64_t n;
    struct ks_lane *lane; /* whose generator or tree is drawn from */
    enum {
        KS_DRAW_NEXT,    /* of the lane's generator */
        KS_DRAW_TREE,    /* of its Brownian tree */
        KS_DRAW_INITIAL, /* of the CPU generator `seed`, past `skip` words: out = scale * draw + kept * out, or without kept
                          * out = scale * draw; on the device only */
    } what;
    bool gpu;                 /* the tree's nodes take noise_device */
    double sigma, sigma_next; /* of the tree's interval */
    uint64_t seed;
    int64_t skip;
    double scale, kept;
} ks_draw;

typedef struct ks_crop {
    float *out;
    const float *x;
    int channels, height, width;
    ks_window at;
} ks_crop;

/* What stands between linear combinations. */
typedef struct ks_vector_step {
    int before; /* combinations that were queued earlier */
    enum { KS_STEP_DRAW, KS_STEP_CROP, KS_STEP_BLEND, KS_STEP_INPAINT } kind;
    int part; /* of a blend: its first part; the op's own pointer is set when it is handed over */
    union {
        ks_draw draw;
        ks_crop crop;
        ks_blend_op blend;
        ks_inpaint_op inpaint;
    };
} ks_vector_step;

typedef struct ks_vectors {
    ks_lincomb_op *combination;
    int combinations, combination_room;
    ks_vector_step *step;
    int steps, step_room;
    ks_blend_part *part; /* of all blends */
    int parts, part_room;
    ks_noise_op *noise; /* draws for the device that were not handed over yet, with all their terms in order */
    int noises, noise_room;
    ks_noise_term *term;
    int terms, term_room;
    int sent;    /* combinations handed over by the flush */
    float *host; /* where noise is made */
    int64_t host_floats;
} ks_vectors;

/* Queues a combination and returns it, to be filled with terms. */
ks_lincomb_op *ks_vectors_combine(ks_vectors *v, float *out, int64_t n);
void ks_combine_term(ks_lincomb_op *op, double coef, const float *x);

void ks_vectors_draw(ks_vectors *v, const ks_draw *draw);
void ks_vectors_crop(ks_vectors *v, const ks_crop *crop);
void ks_vectors_inpaint(ks_vectors *v, const ks_inpaint_op *op);

/* Queues a blend without parts, and adds a part to the blend that was queued last. */
void ks_vectors_blend(ks_vectors *v, const ks_blend_op *op);
void ks_vectors_blend_part(ks_vectors *v, const ks_blend_part *part);

/* Hands all to the device. -1 when a Brownian tree cannot be made. */
int ks_vectors_flush(ks_vectors *v, ks_ops *ops, ks_error *err);

void ks_vectors_drop(ks_vectors *v);  /* empties the queue */
void ks_vectors_clear(ks_vectors *v); /* frees its memory */

#endif
