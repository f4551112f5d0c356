/* A network whose denoiser is known in closed form, on host memory: for data that are normal with
 * mean m and variance 1, D(x, sigma) = m + (x - m) / (1 + sigma^2), and the probability-flow ODE
 * keeps (x - m) / sqrt(1 + sigma^2). It predicts eps = (x - D) / sigma = (x - m) sigma / (1 +
 * sigma^2). */
#ifndef TESTS_UNIT_SAMPLING_TOY_NETWORK_H
#define TESTS_UNIT_SAMPLING_TOY_NETWORK_H

#include <math.h>
#include <string.h>

#include "sampling/engine.h"

/* The engine's opaque conditioning, as this network knows it. */
struct ks_cond {
    double mean;
    bool broken; /* its outputs are NaN */
};

typedef struct toy_network {
    int64_t floats; /* of a row */
    int rows;       /* seen so far */
    int fail_at;    /* the call that fails, counted from 1; 0: none */
    int calls;
} toy_network;

/* The mean of element i: not the same everywhere, so that mixed-up rows are seen. */
static inline double toy_mean(const struct ks_cond *c, int64_t i)
{
    return c->mean + 0.125 * (double)(i % 5);
}

static inline int toy_rows(toy_network *toy, const ks_net_row *row, int n, ks_error *err)
{
    if (++toy->calls == toy->fail_at)
        return ks_error_set(err, "the toy network fails");
    toy->rows += n;
    for (int k = 0; k < n; k++) {
        double inverse = (double)row[k].scale * (double)row[k].scale; /* 1 / (1 + sigma^2) */
        double sigma = sqrt(1 / inverse - 1);
        for (int64_t i = 0; i < toy->floats; i++)
            row[k].out[i] =
                (float)(sigma * inverse * ((double)row[k].x[i] - toy_mean(row[k].cond, i)));
        if (row[k].cond->broken)
            row[k].out[0] = NAN;
    }
    return 0;
}

static inline ks_guidance toy_guidance(const struct ks_cond *c)
{
    return (ks_guidance){.cond = c,
                         .id = ks_hash(c, sizeof *c),
                         .strength = 1,
                         .start_percent = 0,
                         .end_percent = 1};
}

static inline const ks_sampler *toy_sampler(const char *name)
{
    return ks_sampler_at(ks_sampler_find(name));
}

#endif
