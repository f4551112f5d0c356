/* ER-SDE-Solver-3 (Cui et al. 2023, "Elucidating the solution space of extended reverse-time SDE
 * for diffusion models", arXiv 2309.06169, algorithm 3 with the VE form and noise scale (x) = x
 * (e^(x^0.3) + 10)). 1 evaluation a step. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

static double noise_scale(double x)
{
    return x * (exp(pow(x, 0.3)) + 10);
}

/* Left sums of 200 intervals over [next, sigma]: of 1 / noise_scale, and of (u - sigma) /
 * noise_scale. */
static void integrals(double sigma, double next, double *plain, double *first)
{
    enum { POINTS = 200 };
    double width = (sigma - next) / POINTS;
    *plain = *first = 0;
    for (int k = 0; k < POINTS; k++) {
        double u = next + k * width;
        *plain += width / noise_scale(u);
        *first += width * (u - sigma) / noise_scale(u);
    }
}

int ks_sample_er_sde(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    ks_tensor *denoised = ks_tensor_new(lane), *old = ks_tensor_new(lane),
              *noise = ks_tensor_new(lane);
    ks_tensor *slope = ks_tensor_new(lane), *old_slope = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        double s = sigma[i], next = sigma[i + 1];
        ks_denoise(lane, denoised, x, s);
        if (next == 0) {
            ks_copy(lane, x, denoised);
            continue;
        }
        double r = noise_scale(next) / noise_scale(s), dt = next - s, plain, first;
        integrals(s, next, &plain, &first);
        ks_lincomb(lane, x, 2, (ks_term[]){{r, x}, {1 - r, denoised}});
        if (i > 0) {
            double width = s - sigma[i - 1];
            ks_lincomb(lane, slope, 2, (ks_term[]){{1 / width, denoised}, {-1 / width, old}});
            ks_lincomb(lane, x, 2, (ks_term[]){{1, x}, {dt + plain * noise_scale(next), slope}});
        }
        if (i > 1) {
            double curve = (dt * dt / 2 + first * noise_scale(next)) / ((s - sigma[i - 2]) / 2);
            ks_lincomb(lane, x, 3, (ks_term[]){{1, x}, {curve, slope}, {-curve, old_slope}});
        }
        double variance = next * next - s * s * r * r;
        ks_add_noise(lane, x, noise, variance > 0 ? sqrt(variance) : 0);
        ks_tensor *swap = old;
        old = denoised;
        denoised = swap;
        swap = old_slope;
        old_slope = slope;
        slope = swap;
    }
    return 0;
}
