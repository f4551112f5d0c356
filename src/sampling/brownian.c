#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/noise.h"

/* A node [a, b] of the tree splits at m by the Brownian bridge: with its increment w = W(b) - W(a)
 * and a normal z from a seed of the node's own,
 *     left = (m - a) / (b - a) * w + sqrt((m - a) (b - m) / (b - a)) * z,   right = w - left.
 * So W(t) is linear in the normals of the root and of the nodes that hold t inside: sum of c_k
 * z_k, some 25 terms for a latent diffusion model. The scalars c_k are found first, in double;
 * then every z_k is drawn once and added in double.
 *
 * A query is the difference of two points (which is the sum of the largest nodes inside). Their
 * sums are kept: of the next query's two points one is usually a point of this one, and only the
 * other costs draws. What a sum is does not depend on what was kept. torch adds float32 nodes,
 * whose roundings show as differences of about 1e-7 (root mean square). */

enum {
    MAX_TERMS = 64, /* root and splits on the way to one point */
    POINTS = 2      /* kept sums */
};

static const double LARGEST_TIME = 1e9; /* keeps the depth near 50 and keys below 2^63 */
static const int64_t LARGEST_LATENT = INT64_C(1) << 40;

typedef struct point {
    double time;
    int64_t used; /* 0: empty, else a clock that grows with every use */
    double *w;    /* [n] */
} point;

struct ks_brownian {
    ks_noise_device device;
    uint64_t seed;
    double span;      /* t1 - t0 before rounding */
    double low, high; /* rounded ends */
    int64_t n;
    int64_t clock;
    float *z; /* [n], scratch */
    point points[POINTS];
};

/* A node's seed and its normals' coefficient in W(t). */
typedef struct term {
    uint32_t seed;
    double coefficient;
} term;

/* Round-half-even to 6 decimals of the exact binary value, as the nearest double. 0 <= x <= 1e9. */
static double round6(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.6f", x);
    return strtod(text, NULL);
}

ks_brownian *ks_brownian_new(ks_noise_device device, uint64_t seed, double t0, double t1, int64_t n,
                             ks_error *err)
{
    if (!(t0 >= 0 && t0 <= t1 && t1 <= LARGEST_TIME)) {
        ks_error_set(err,
                     "Brownian noise cannot span sigma %g to %g: 0 <= from <= to <= %g is needed",
                     t0, t1, LARGEST_TIME);
        return NULL;
    }
    ks_brownian *b = n > 0 && n <= LARGEST_LATENT ? calloc(1, sizeof *b) : NULL;
    if (!b)
        goto no_memory;
    *b = (ks_brownian){.device = device, .seed = seed, .span = t1 - t0, .n = n};
    b->low = round6(t0);
    b->high = round6(t1);
    b->z = malloc((size_t)n * sizeof *b->z);
    if (!b->z)
        goto no_memory;
    for (int i = 0; i < POINTS; i++) {
        b->points[i].w = malloc((size_t)n * sizeof *b->points[i].w);
        if (!b->points[i].w)
            goto no_memory;
    }
    return b;
no_memory:
    ks_brownian_free(b);
    ks_error_set(err, "no memory for Brownian noise of %lld elements", (long long)n);
    return NULL;
}

void ks_brownian_free(ks_brownian *b)
{
    if (!b)
        return;
    for (int i = 0; i < POINTS; i++)
        free(b->points[i].w);
    free(b->z);
    free(b);
}

/* The way down to a point has come to node [from, to], place `key` of its level. Over the terms
 * met so far, the increment of this node and of all that lies left of it are sums with
 * coefficients inside and left. */
typedef struct descent {
    double from, to;
    uint64_t key, depth;
    int count;
    double inside[MAX_TERMS], left[MAX_TERMS];
} descent;

/* One level down, to the half that holds time or begins with it. */
static void descend(descent *d, double time)
{
    double middle = round6((d->from + d->to) / 2), width = d->to - d->from;
    double share = (middle - d->from) / width;
    double fresh = sqrt((middle - d->from) * (d->to - middle) / width);
    bool right = time >= middle;
    for (int k = 0; k < d->count; k++) {
        d->left[k] += right ? share * d->inside[k] : 0;
        d->inside[k] *= right ? 1 - share : share;
    }
    d->left[d->count] = right ? fresh : 0;
    d->inside[d->count++] = right ? -fresh : fresh;
    *(right ? &d->from : &d->to) = middle;
    d->key = 2 * d->key + right;
    d->depth++;
}

/* The sum that gives W(time) - W(low); time is a rounded one, from low to high. Gives its
 * length. */
static int terms_of(const ks_brownian *b, double time, term terms[MAX_TERMS])
{
    if (time <= b->low)
        return 0;
    descent d = {.from = b->low, .to = b->high, .count = 1, .inside = {sqrt(b->span)}};
    terms[0].seed = ks_seed_sequence_word(b->seed, NULL, 0);
    while (d.from < time && time < d.to) {
        terms[d.count].seed = ks_seed_sequence_word(b->seed, (uint64_t[]){d.key, d.depth}, 2);
        descend(&d, time);
    }
    for (int k = 0; k < d.count; k++)
        terms[k].coefficient = d.left[k] + (time >= d.to ? d.inside[k] : 0);
    return d.count;
}

static void fill_point(ks_brownian *b, point *p, double time)
{
    term terms[MAX_TERMS];
    int count = terms_of(b, time, terms);
    double *restrict w = p->w;
    const float *restrict z = b->z;
    memset(w, 0, (size_t)b->n * sizeof *w);
    for (int k = 0; k < count; k++) {
        ks_generator g;
        ks_generator_seed(&g, b->device, terms[k].seed);
        ks_generator_normal(&g, b->z, b->n);
        for (int64_t i = 0; i < b->n; i++)
            w[i] += terms[k].coefficient * (double)z[i];
    }
    p->time = time;
}

/* W at time, from the kept points or anew in place of the one unused for longest. It stays valid
 * until a second other time has been asked for. */
static const double *w_at(ks_brownian *b, double time)
{
    point *oldest = &b->points[0];
    for (int i = 0; i < POINTS; i++) {
        point *p = &b->points[i];
        if (p->used && p->time == time) {
            p->used = ++b->clock;
            return p->w;
        }
        if (p->used < oldest->used)
            oldest = p;
    }
    fill_point(b, oldest, time);
    oldest->used = ++b->clock;
    return oldest->w;
}

/* Not-a-number goes to the low end: the latent it came from fails its own check. */
static double tree_time(const ks_brownian *b, double sigma)
{
    if (!(sigma > b->low))
        return b->low;
    return sigma < b->high ? round6(sigma) : b->high;
}

void ks_brownian_noise(ks_brownian *b, double sigma, double sigma_next, float *out)
{
    const double *w = w_at(b, tree_time(b, sigma));
    const double *w_next = w_at(b, tree_time(b, sigma_next));
    double scale = 1 / (double)sqrtf(fabsf((float)sigma_next - (float)sigma));
    for (int64_t i = 0; i < b->n; i++)
        out[i] = (float)((w_next[i] - w[i]) * scale);
}
