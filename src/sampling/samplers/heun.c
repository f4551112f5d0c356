/* Heun's method and Heun++. */
#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* Predictor-corrector of 2nd order on dx/dsigma = (x - D(x)) / sigma: Karras et al. 2022, algorithm
 * 1 (arXiv 2206.00364), with no churn. Euler's step to sigma 0. 2n - 1 evaluations. */
int ks_sample_heun(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *ahead = ks_tensor_new(lane),
              *there = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        double s = sigma[i], next = sigma[i + 1], half = (next - s) / 2;
        ks_denoise(lane, denoised, x, s);
        if (next == 0) {
            ks_euler_step(lane, x, denoised, s, next);
            continue;
        }
        ks_copy(lane, ahead, x);
        ks_euler_step(lane, ahead, denoised, s, next);
        ks_denoise(lane, there, ahead, next);
        ks_lincomb(lane, x, 4,
                   (ks_term[]){{1 + half / s, x},
                               {-half / s, denoised},
                               {half / next, ahead},
                               {-half / next, there}});
    }
    return 0;
}

/* The derivatives of a Heun++ step at sigma[i] (in d[0]) and at the points that Euler's method
 * reaches from there, sigma[i + 1] ... sigma[i + more]. */
static void look_ahead(ks_lane *lane, const ks_tensor *x, const double *sigma, int more,
                       ks_tensor *ahead, ks_tensor *denoised, ks_tensor *const *d)
{
    ks_denoise(lane, denoised, x, sigma[0]);
    ks_derivative(lane, d[0], x, denoised, sigma[0]);
    const ks_tensor *from = x;
    for (int k = 1; k <= more; k++) {
        ks_lincomb(lane, ahead, 2, (ks_term[]){{1, from}, {sigma[k] - sigma[k - 1], d[k - 1]}});
        ks_denoise(lane, denoised, ahead, sigma[k]);
        ks_derivative(lane, d[k], ahead, denoised, sigma[k]);
        from = ahead;
    }
}

/* Heun++: the derivatives of up to two Euler steps ahead are averaged with weights sigma[i + k] /
 * (m sigma[0]) (Li et al. 2023, "Zero-shot medical image translation via frequency-guided diffusion
 * models", arXiv 2304.02742). The last but one step looks one ahead, the last none. At most 3
 * evaluations a step. */
int ks_sample_heunpp2(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *ahead = ks_tensor_new(lane), *denoised = ks_tensor_new(lane);
    ks_tensor *d[3] = {ks_tensor_new(lane), ks_tensor_new(lane), ks_tensor_new(lane)};
    for (int i = 0; i < n; i++) {
        int more = n - 1 - i < 2 ? n - 1 - i : 2;
        look_ahead(lane, x, sigma + i, more, ahead, denoised, d);
        double dt = sigma[i + 1] - sigma[i], first = 1;
        for (int k = 1; k <= more; k++) {
            double weight = sigma[i + k] / ((more + 1) * sigma[0]);
            first -= weight;
            ks_lincomb(lane, x, 2, (ks_term[]){{1, x}, {dt * weight, d[k]}});
        }
        ks_lincomb(lane, x, 2, (ks_term[]){{1, x}, {dt * first, d[0]}});
    }
    return 0;
}
