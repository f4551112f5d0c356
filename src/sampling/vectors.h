/* Vector operations that samplers have asked for and the device has not yet been given.
 *
 * All lanes append to one queue; a flush hands it over in order, every linear combination of all lanes in
 * one ops->lincomb where it can. Noise is made on the host and uploaded in its place. */
#ifndef KS_SAMPLING_VECTORS_H
#define KS_SAMPLING_VECTORS_H

#include <stdbool.h>

#include "backend/ops.h"

typedef struct ks_draw {
    int before; /* combinations that were queued earlier */
    float *out;
    int64_t n;
    struct ks_lane *lane; /* whose generator or tree is drawn from */
    bool brownian, gpu;
    double sigma, sigma_next; /* of the tree's interval */
} ks_draw;

typedef struct ks_vectors {
    ks_lincomb_op *combination;
    int combinations, combination_room;
    ks_draw *draw;
    int draws, draw_room;
    float *host; /* where noise is made */
    int64_t host_floats;
} ks_vectors;

/* Queues a combination and returns it, to be filled with terms. */
ks_lincomb_op *ks_vectors_combine(ks_vectors *v, float *out, int64_t n);
void ks_combine_term(ks_lincomb_op *op, double coef, const float *x);

/* Queues a draw: draw->before is set here. */
void ks_vectors_draw(ks_vectors *v, ks_draw draw);

/* Hands all to the device. -1 when a Brownian tree cannot be made. */
int ks_vectors_flush(ks_vectors *v, ks_ops *ops, ks_error *err);

void ks_vectors_drop(ks_vectors *v);  /* empties the queue */
void ks_vectors_clear(ks_vectors *v); /* frees its memory */

#endif
