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
    MAX_NODES = KS_BROWNIAN_TERMS / 2, /* root and splits on the way to one point */
    POINTS = 2                         /* kept sums */
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
    ks_brownian_tree tree;
    int64_t n;
    int64_t clock;
    float *z; /* [n], scratch */
    point points[POINTS];
};

/* A node, told by its place `key` in its level (the root stands first, before all levels), and its normals' coefficient in
 * W(t). */
typedef struct node {
    uint64_t key;
    double coefficient;
} node;

/* The nodes on the way to a time: number k > 0 is one of level k - 1. */
typedef struct path {
    int count;
    node node[MAX_NODES];
} path;

/* Round-half-even to 6 decimals of the exact binary value, as the nearest double. 0 <= x <= 1e9. */
static double round6(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.6f", x);
    return strtod(text, NULL);
}

int ks_brownian_tree_init(ks_brownian_tree *tree, uint64_t seed, double t0, double t1, ks_error *err)
{
    if (!(t0 >= 0 && t0 <= t1 && t1 <= LARGEST_TIME))
        return ks_error_set(err, "Brownian noise cannot span sigma %g to %g: 0 <= from <= to <= %g is needed", t0, t1,
                            LARGEST_TIME);
    *tree = (ks_brownian_tree){.seed = ks_seed_root_of(seed), .span = t1 - t0, .low = round6(t0), .high = round6(t1)};
    return 0;
}

ks_brownian *ks_brownian_new(ks_noise_device device, uint64_t seed, double t0, double t1, int64_t n,
                             ks_error *err)
{
    ks_brownian_tree tree;
    if (ks_brownian_tree_init(&tree, seed, t0, t1, err))
        return NULL;
    ks_brownian *b = n > 0 && n <= LARGEST_LATENT ? calloc(1, sizeof *b) : NULL;
    if (!b)
        goto no_memory;
    *b = (ks_brownian){.device = device, .tree = tree, .n = n};
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
    double inside[MAX_NODES], left[MAX_NODES];
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

/* The sum that gives W(time) - W(low); time is a rounded one, from low to high. */
static void find_path(const ks_brownian_tree *tree, double time, path *p)
{
    p->count = 0;
    if (time <= tree->low)
        return;
    descent d = {.from = tree->low, .to = tree->high, .count = 1, .inside = {sqrt(tree->span)}};
    p->node[0].key = 0;
    while (d.from < time && time < d.to) {
        p->node[d.count].key = d.key;
        descend(&d, time);
    }
    p->count = d.count;
    for (int k = 0; k < d.count; k++)
        p->node[k].coefficient = d.left[k] + (time >= d.to ? d.inside[k] : 0);
}

/* The seed of node number k of a path. */
static uint32_t seed_of(const ks_brownian_tree *tree, int k, uint64_t key)
{
    uint64_t spawn_key[2] = {key, (uint64_t)k - 1};
    return ks_seed_word(tree->seed, spawn_key, k == 0 ? 0 : 2);
}

static void fill_point(ks_brownian *b, point *p, double time)
{
    path way;
    find_path(&b->tree, time, &way);
    double *restrict w = p->w;
    const float *restrict z = b->z;
    memset(w, 0, (size_t)b->n * sizeof *w);
    for (int k = 0; k < way.count; k++) {
        ks_generator g;
        ks_generator_seed(&g, b->device, seed_of(&b->tree, k, way.node[k].key));
        ks_generator_normal(&g, b->z, b->n);
        for (int64_t i = 0; i < b->n; i++)
            w[i] += way.node[k].coefficient * (double)z[i];
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
static double tree_time(const ks_brownian_tree *tree, double sigma)
{
    if (!(sigma > tree->low))
        return tree->low;
    return sigma < tree->high ? round6(sigma) : tree->high;
}

static double scale_of(double sigma, double sigma_next)
{
    return 1 / (double)sqrtf(fabsf((float)sigma_next - (float)sigma));
}

/* Paths share their first nodes. A node without a part in either sum is left out: its draw times zero changes no bit. */
int ks_brownian_terms(const ks_brownian_tree *tree, double sigma, double sigma_next, ks_noise_term term[KS_BROWNIAN_TERMS],
                      double *scale)
{
    path from, to;
    int count = 0;
    find_path(tree, tree_time(tree, sigma), &from);
    find_path(tree, tree_time(tree, sigma_next), &to);
    for (int k = 0; k < from.count || k < to.count; k++) {
        node minus = k < from.count ? from.node[k] : (node){0}, plus = k < to.count ? to.node[k] : (node){0};
        bool shared = k < from.count && k < to.count && minus.key == plus.key;
        if (plus.coefficient != 0 || (shared && minus.coefficient != 0))
            term[count++] = (ks_noise_term){.seed = seed_of(tree, k, plus.key),
                                            .plus = plus.coefficient,
                                            .minus = shared ? minus.coefficient : 0};
        if (!shared && minus.coefficient != 0)
            term[count++] = (ks_noise_term){.seed = seed_of(tree, k, minus.key), .minus = minus.coefficient};
    }
    *scale = scale_of(sigma, sigma_next);
    return count;
}

void ks_brownian_noise(ks_brownian *b, double sigma, double sigma_next, float *out)
{
    const double *w = w_at(b, tree_time(&b->tree, sigma));
    const double *w_next = w_at(b, tree_time(&b->tree, sigma_next));
    double scale = scale_of(sigma, sigma_next);
    for (int64_t i = 0; i < b->n; i++)
        out[i] = (float)((w_next[i] - w[i]) * scale);
}
