/* DPM-Solver++(2M) (Lu et al. 2022, "DPM-Solver++", arXiv 2211.01095, algorithm 2): a multistep
 * method of 2nd order in the data prediction, on lambda = -ln sigma. 1 evaluation a step. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* 1 / (2 r) of step i, r being the last step's length in lambda over this one's; 0 where the method
 * must start anew or ends at sigma 0. */
static double extrapolation(const double *sigma, int i)
{
    if (i == 0 || sigma[i + 1] == 0)
        return 0;
    return log(sigma[i] / sigma[i + 1]) / (2 * log(sigma[i - 1] / sigma[i]));
}

int ks_sample_dpmpp_2m(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *old = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        double ratio = sigma[i + 1] / sigma[i], e = extrapolation(sigma, i);
        if (e == 0)
            ks_euler_step(lane, x, denoised, sigma[i], sigma[i + 1]);
        else
            ks_lincomb(lane, x, 3,
                       (ks_term[]){
                           {ratio, x}, {(1 - ratio) * (1 + e), denoised}, {-(1 - ratio) * e, old}});
        ks_tensor *swap = old;
        old = denoised;
        denoised = swap;
    }
    return 0;
}

/* CFG++ (Chung et al. 2024, arXiv 2406.08070): x = D + ratio (x - U) + (1 - ratio) e (D - U_old).
 */
int ks_sample_dpmpp_2m_cfg_pp(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                              ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *uncond = ks_tensor_new(lane),
              *old = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise_pair(lane, denoised, uncond, x, sigma[i]);
        double ratio = sigma[i + 1] / sigma[i], more = (1 - ratio) * extrapolation(sigma, i);
        ks_lincomb(lane, x, more == 0 ? 3 : 4,
                   (ks_term[]){{ratio, x}, {1 + more, denoised}, {-ratio, uncond}, {-more, old}});
        ks_tensor *swap = old;
        old = uncond;
        uncond = swap;
    }
    return 0;
}
