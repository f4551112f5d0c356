/* DPM-Solver-2 as Karras et al. 2022 compare with it (arXiv 2206.00364, table 1): the midpoint
 * method with its middle half-way in log sigma (Lu et al. 2022, arXiv 2206.00927). */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* Half-way in log sigma, rounded as torch's lerp from the far end. */
static double middle(double sigma, double next)
{
    float from = (float)log(sigma), to = (float)log(next);
    float half = (to - from) * 0.5F;
    float log_middle = to - half;
    return ks_exp_f32((double)log_middle);
}

/* The step from sigma to next > 0: x += (next - sigma) * derivative at the middle. */
static void midpoint_step(ks_lane *lane, ks_tensor *x, const ks_tensor *denoised, double sigma,
                          double next, ks_tensor *half_way, ks_tensor *there)
{
    double mid = middle(sigma, next), dt = next - sigma;
    ks_copy(lane, half_way, x);
    ks_euler_step(lane, half_way, denoised, sigma, mid);
    ks_denoise(lane, there, half_way, mid);
    ks_lincomb(lane, x, 3, (ks_term[]){{1, x}, {dt / mid, half_way}, {-dt / mid, there}});
}

/* 2 evaluations a step, 1 for the step to sigma 0. */
int ks_sample_dpm_2(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *half_way = ks_tensor_new(lane),
              *there = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        if (sigma[i + 1] == 0)
            ks_euler_step(lane, x, denoised, sigma[i], 0);
        else
            midpoint_step(lane, x, denoised, sigma[i], sigma[i + 1], half_way, there);
    }
    return 0;
}

/* The same to sigma_down, then fresh noise. */
int ks_sample_dpm_2_ancestral(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                              ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *half_way = ks_tensor_new(lane),
              *there = ks_tensor_new(lane), *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        ks_ancestral to = ks_ancestral_split(sigma[i], sigma[i + 1]);
        if (to.down == 0)
            ks_euler_step(lane, x, denoised, sigma[i], 0);
        else
            midpoint_step(lane, x, denoised, sigma[i], to.down, half_way, there);
        ks_add_noise(lane, x, noise, to.up);
    }
    return 0;
}
