/* RES, the refined exponential solver, as a multistep method of 2nd order (Zhang et al. 2023, arXiv
 * 2308.02157, with the order conditions of section 3), on lambda = -ln sigma; ancestral and CFG++
 * variants. 1 evaluation a step. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* The weights of the newest and the last estimate in a step of length h in lambda, the last
 * estimate standing at c * h from here (c < 0): b2 = phi_2(-h) / c, b1 = phi_1(-h) - b2, times h.
 */
static void res_weights(double h, double c, double *newest, double *last)
{
    double phi_1 = expm1(-h) / -h, phi_2 = (phi_1 - 1) / -h;
    *last = h * phi_2 / c;
    *newest = h * phi_1 - *last;
}

typedef struct variant {
    bool ancestral, cfg_pp;
} variant;

/* x at sigma to down by the estimate alone. */
static void first_order(ks_lane *lane, ks_tensor *x, const ks_tensor *denoised,
                        const ks_tensor *uncond, double ratio, variant v)
{
    if (v.cfg_pp)
        ks_lincomb(lane, x, 3, (ks_term[]){{ratio, x}, {1, denoised}, {-ratio, uncond}});
    else
        ks_lincomb(lane, x, 2, (ks_term[]){{ratio, x}, {1 - ratio, denoised}});
}

static void second_order(ks_lane *lane, ks_tensor *x, const ks_tensor *denoised,
                         const ks_tensor *uncond, const ks_tensor *old, double ratio, double h,
                         double c, variant v)
{
    double newest, last;
    res_weights(h, c, &newest, &last);
    if (v.cfg_pp)
        ks_lincomb(
            lane, x, 4,
            (ks_term[]){{ratio, x}, {ratio, denoised}, {newest - ratio, uncond}, {last, old}});
    else
        ks_lincomb(lane, x, 3, (ks_term[]){{ratio, x}, {newest, denoised}, {last, old}});
}

static int sample(ks_lane *lane, ks_tensor *x, const double *sigma, int n, variant v)
{
    ks_tensor *denoised = ks_tensor_new(lane), *uncond = ks_tensor_new(lane);
    ks_tensor *old = ks_tensor_new(lane), *noise = ks_tensor_new(lane);
    double old_down = 0;
    for (int i = 0; i < n; i++) {
        ks_denoise_pair(lane, denoised, v.cfg_pp ? uncond : NULL, x, sigma[i]);
        ks_ancestral to = {.down = sigma[i + 1]};
        if (v.ancestral)
            to = ks_ancestral_split(sigma[i], sigma[i + 1]);
        double ratio = to.down / sigma[i];
        if (i == 0 || to.down == 0)
            first_order(lane, x, denoised, uncond, ratio, v);
        else
            second_order(lane, x, denoised, uncond, old, ratio, -log(ratio),
                         log(old_down / sigma[i - 1]) / -log(ratio), v);
        ks_add_noise(lane, x, noise, to.up);
        old_down = to.down;
        ks_tensor **newest = v.cfg_pp ? &uncond : &denoised, *swap = old;
        old = *newest;
        *newest = swap;
    }
    return 0;
}

int ks_sample_res_multistep(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, (variant){0});
}

int ks_sample_res_multistep_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                   ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, (variant){.cfg_pp = true});
}

int ks_sample_res_multistep_ancestral(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                      ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, (variant){.ancestral = true});
}

int ks_sample_res_multistep_ancestral_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma,
                                             int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, (variant){.ancestral = true, .cfg_pp = true});
}
