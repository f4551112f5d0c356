/* Euler's method and its ancestral and CFG++ variants. */
#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* Euler's method on the probability-flow ODE dx/dsigma = (x - D(x)) / sigma: Karras et al. 2022,
 * algorithm 1's first order step (arXiv 2206.00364). 1 evaluation a step. */
int ks_sample_euler(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        ks_euler_step(lane, x, denoised, sigma[i], sigma[i + 1]);
    }
    return 0;
}

/* DDIM (Song et al. 2021, arXiv 2010.02502) with eta 0 is Euler's method in these variables.
 * ComfyUI seeds a second noise with seed + 1 for inpainting, and refuses a seed that has no
 * successor: so do we. */
int ks_sample_ddim(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    if (ks_lane_seed(lane) == UINT64_MAX)
        return ks_error_set(
            err, "sampler ddim needs seed + 1, which seed %llu has not; use a smaller seed",
            (unsigned long long)UINT64_MAX);
    return ks_sample_euler(lane, x, sigma, n, err);
}

/* Euler's step to sigma_down, then fresh noise: ancestral sampling. 1 evaluation a step. */
int ks_sample_euler_ancestral(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                              ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        ks_ancestral to = ks_ancestral_split(sigma[i], sigma[i + 1]);
        ks_euler_step(lane, x, denoised, sigma[i], to.down);
        ks_add_noise(lane, x, noise, to.up);
    }
    return 0;
}

/* CFG++ (Chung et al. 2024, arXiv 2406.08070): the guided estimate is noised again along the
 * unconditional direction, x = D + down * (x - D_uncond) / sigma. */
static void sample_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma, int n, bool ancestral)
{
    ks_tensor *denoised = ks_tensor_new(lane), *uncond = ks_tensor_new(lane),
              *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise_pair(lane, denoised, uncond, x, sigma[i]);
        ks_ancestral to = {.down = sigma[i + 1]};
        if (ancestral)
            to = ks_ancestral_split(sigma[i], sigma[i + 1]);
        double share = to.down / sigma[i];
        ks_lincomb(lane, x, 3, (ks_term[]){{share, x}, {1, denoised}, {-share, uncond}});
        ks_add_noise(lane, x, noise, to.up);
    }
}

int ks_sample_euler_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    sample_cfg_pp(lane, x, sigma, n, false);
    return 0;
}

int ks_sample_euler_ancestral_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                     ks_error *err)
{
    (void)err;
    sample_cfg_pp(lane, x, sigma, n, true);
    return 0;
}
