/* Samplers that noise the estimate again at every step. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* Multistep consistency sampling (Luo et al. 2023, "Latent consistency models", arXiv 2310.04378,
 * algorithm 3): x = D + next * fresh noise. 1 evaluation a step. */
int ks_sample_lcm(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, x, x, sigma[i]);
        ks_add_noise(lane, x, noise, sigma[i + 1]);
    }
    return 0;
}

/* DDPM's ancestral step (Ho et al. 2020, arXiv 2006.11239, algorithm 2 and equation 11) in
 * variables of unit signal: x / sqrt(1 + sigma^2) is DDPM's x, abar = 1 / (1 + sigma^2), and eps =
 * (x - D) / sigma. 1 evaluation a step. */
int ks_sample_ddpm(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        double abar = 1 / (1 + sigma[i] * sigma[i]), next = 1 / (1 + sigma[i + 1] * sigma[i + 1]);
        double alpha = abar / next, beta = 1 - alpha, back = 1 / sqrt(next);
        double share = beta * back / (sqrt(alpha * (1 - abar)) * sigma[i]);
        ks_lincomb(lane, x, 2, (ks_term[]){{1 - share, x}, {share, denoised}});
        if (sigma[i + 1] > 0)
            ks_add_noise(lane, x, noise, sqrt(beta * (1 - next) / (1 - abar)) * back);
    }
    return 0;
}
