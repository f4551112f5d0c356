/* SEEDS: exponential SDE solvers (Gonzalez et al. 2023, arXiv 2305.14267), eta = 1, on lambda = -ln
 * sigma. The noise of a step is drawn by sections, each of which reaches the stages that come after
 * it. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* A step from sigma to next: h in lambda, and the sigmas of its stages. */
typedef struct seeds_step {
    double sigma, h;
    int sections;    /* equal ones */
    double stage[3]; /* sigma at the end of each section; the last is next */
} seeds_step;

static seeds_step step_of(double sigma, double next, int sections)
{
    seeds_step s = {.sigma = sigma, .h = log(sigma / next), .sections = sections};
    for (int k = 0; k < sections - 1; k++)
        s.stage[k] = ks_sigma_between(sigma, next, (double)(k + 1) / sections);
    s.stage[sections - 1] = next;
    return s;
}

/* out = the solution at the end of section k: x's decay, the constant part of the first estimate,
 * `more` times (last estimate - first), and the noise of the sections so far, decayed since. */
static void advance(ks_lane *lane, const seeds_step *s, int k, ks_tensor *out, const ks_tensor *x,
                    const ks_tensor *first, const ks_tensor *last, double more,
                    ks_tensor *const *noise)
{
    double section = s->h / s->sections, way = (k + 1) * section, constant = -expm1(-2 * way);
    ks_term term[6] = {
        {s->stage[k] / s->sigma * exp(-way), x}, {constant - more, first}, {more, last}};
    for (int j = 0; j <= k; j++)
        term[3 + j] =
            (ks_term){s->stage[k] * exp(-(k - j) * section) * sqrt(-expm1(-2 * section)), noise[j]};
    ks_lincomb(lane, out, 3 + k + 1, term);
}

/* z - (1 - e^-z), over z: what the slope of the estimate adds over a way of z = 2 h r. */
static double slope_part(double z)
{
    return 1 + expm1(-z) / z;
}

/* SEEDS-2: one stage half-way, whose estimate carries the rest. 2 evaluations a step. */
int ks_sample_seeds_2(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *there = ks_tensor_new(lane),
              *ahead = ks_tensor_new(lane);
    ks_tensor *noise[2] = {ks_tensor_new(lane), ks_tensor_new(lane)};
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        if (sigma[i + 1] == 0) {
            ks_copy(lane, x, denoised);
            continue;
        }
        seeds_step s = step_of(sigma[i], sigma[i + 1], 2);
        for (int k = 0; k < 2; k++)
            ks_noise(lane, noise[k]);
        advance(lane, &s, 0, ahead, x, denoised, denoised, 0, noise);
        ks_denoise(lane, there, ahead, s.stage[0]);
        advance(lane, &s, 1, x, x, denoised, there, -expm1(-2 * s.h), noise);
    }
    return 0;
}

/* SEEDS-3: stages after one and two thirds. 3 evaluations a step. */
int ks_sample_seeds_3(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *there = ks_tensor_new(lane),
              *ahead = ks_tensor_new(lane);
    ks_tensor *noise[3] = {ks_tensor_new(lane), ks_tensor_new(lane), ks_tensor_new(lane)};
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        if (sigma[i + 1] == 0) {
            ks_copy(lane, x, denoised);
            continue;
        }
        seeds_step s = step_of(sigma[i], sigma[i + 1], 3);
        for (int k = 0; k < 3; k++)
            ks_noise(lane, noise[k]);
        advance(lane, &s, 0, ahead, x, denoised, denoised, 0, noise);
        ks_denoise(lane, there, ahead, s.stage[0]);
        advance(lane, &s, 1, ahead, x, denoised, there, 2 * slope_part(2 * s.h * 2 / 3), noise);
        ks_denoise(lane, there, ahead, s.stage[1]);
        advance(lane, &s, 2, x, x, denoised, there, 1.5 * slope_part(2 * s.h), noise);
    }
    return 0;
}
