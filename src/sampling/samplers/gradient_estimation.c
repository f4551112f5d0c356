/* Gradient estimation (Permenter & Yuan 2024, "Interpreting and improving diffusion models from an
 * optimization perspective", arXiv 2306.04848, algorithm 2): Euler's step along d_bar = gamma d +
 * (1 - gamma) d_old, gamma = 2. 1 evaluation a step. */
#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* cfg_pp: d points from the unconditional estimate and starts at the guided one (CFG++, arXiv
 * 2406.08070). */
static int sample(ks_lane *lane, ks_tensor *x, const double *sigma, int n, bool cfg_pp)
{
    const double gamma = 2;
    ks_tensor *denoised = ks_tensor_new(lane), *uncond = ks_tensor_new(lane);
    ks_tensor *d = ks_tensor_new(lane), *old = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        double next = sigma[i + 1], more = i > 0 ? (gamma - 1) * (next - sigma[i]) : 0;
        ks_denoise_pair(lane, denoised, cfg_pp ? uncond : NULL, x, sigma[i]);
        if (next == 0) {
            ks_copy(lane, x, denoised);
            continue;
        }
        ks_derivative(lane, d, x, cfg_pp ? uncond : denoised, sigma[i]);
        ks_lincomb(lane, x, i > 0 ? 3 : 2,
                   (ks_term[]){{1, denoised}, {next + more, d}, {-more, old}});
        ks_tensor *swap = old;
        old = d;
        d = swap;
    }
    return 0;
}

int ks_sample_gradient_estimation(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                  ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, false);
}

int ks_sample_gradient_estimation_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                         ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, true);
}
