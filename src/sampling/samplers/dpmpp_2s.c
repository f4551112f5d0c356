/* DPM-Solver++(2S) with ancestral noise (Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095,
 * algorithm 1, r = 1/2): a single-step method of 2nd order in the data prediction, the middle
 * half-way in log sigma. */
#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* 2 evaluations a step, 1 for the step to sigma 0. */
int ks_sample_dpmpp_2s_ancestral(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                 ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *half_way = ks_tensor_new(lane),
              *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        ks_ancestral to = ks_ancestral_split(sigma[i], sigma[i + 1]);
        if (to.down > 0) {
            double middle = ks_sigma_between(sigma[i], to.down, 0.5);
            ks_copy(lane, half_way, x);
            ks_euler_step(lane, half_way, denoised, sigma[i], middle);
            ks_denoise(lane, denoised, half_way, middle);
        }
        ks_euler_step(lane, x, denoised, sigma[i], to.down);
        ks_add_noise(lane, x, noise, to.up);
    }
    return 0;
}

/* x = ratio * (x + denoised - uncond) + (1 - ratio) * target: the same exponential step along the
 * unconditional direction (CFG++, Chung et al. 2024, arXiv 2406.08070). In ComfyUI's second stage,
 * uncond is the middle's while denoised is still the start's; its results are matched. out may be
 * x. */
static void cfg_pp_step(ks_lane *lane, ks_tensor *out, const ks_tensor *x,
                        const ks_tensor *denoised, const ks_tensor *uncond, const ks_tensor *target,
                        double ratio)
{
    ks_lincomb(lane, out, 4,
               (ks_term[]){{ratio, x}, {ratio, denoised}, {-ratio, uncond}, {1 - ratio, target}});
}

int ks_sample_dpmpp_2s_ancestral_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                        ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *uncond = ks_tensor_new(lane);
    ks_tensor *half_way = ks_tensor_new(lane), *there = ks_tensor_new(lane),
              *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise_pair(lane, denoised, uncond, x, sigma[i]);
        ks_ancestral to = ks_ancestral_split(sigma[i], sigma[i + 1]);
        if (to.down == 0) {
            ks_copy(lane, x, denoised);
            continue;
        }
        double middle = ks_sigma_between(sigma[i], to.down, 0.5);
        cfg_pp_step(lane, half_way, x, denoised, uncond, denoised, middle / sigma[i]);
        ks_denoise_pair(lane, there, uncond, half_way, middle);
        cfg_pp_step(lane, x, x, denoised, uncond, there, to.down / sigma[i]);
        ks_add_noise(lane, x, noise, to.up);
    }
    return 0;
}
