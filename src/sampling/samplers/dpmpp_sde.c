/* SDE samplers on Brownian noise, in the data prediction with eta = 1 (Lu et al. 2022,
 * "DPM-Solver++", arXiv 2211.01095, section 5), lambda = -ln sigma. Each comes with a *_gpu name,
 * whose tree may draw from the GPU's generator. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

/* x += scale * the tree's noise from sigma to next. */
static void add_brownian(ks_lane *lane, ks_tensor *x, ks_tensor *noise, double sigma, double next,
                         bool gpu, double scale)
{
    ks_brownian_step(lane, noise, sigma, next, gpu);
    ks_lincomb(lane, x, 2, (ks_term[]){{1, x}, {scale, noise}});
}

/* SDE-DPM-Solver++(2S): a single-step method, its middle (r = 1/2) half-way in lambda; 2
 * evaluations a step. */
static void sample_2s(ks_lane *lane, ks_tensor *x, const double *sigma, int n, bool gpu)
{
    ks_tensor *denoised = ks_tensor_new(lane), *half_way = ks_tensor_new(lane),
              *noise = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        double s = sigma[i], next = sigma[i + 1];
        ks_denoise(lane, denoised, x, s);
        if (next == 0) {
            ks_euler_step(lane, x, denoised, s, 0);
            continue;
        }
        double middle = ks_sigma_between(s, next, 0.5);
        ks_ancestral to = ks_ancestral_split(s, middle);
        ks_copy(lane, half_way, x);
        ks_euler_step(lane, half_way, denoised, s, to.down);
        add_brownian(lane, half_way, noise, s, middle, gpu, to.up);
        ks_denoise(lane, denoised, half_way, middle);
        to = ks_ancestral_split(s, next);
        ks_euler_step(lane, x, denoised, s, to.down);
        add_brownian(lane, x, noise, s, next, gpu, to.up);
    }
}

int ks_sample_dpmpp_sde(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    sample_2s(lane, x, sigma, n, false);
    return 0;
}

int ks_sample_dpmpp_sde_gpu(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    sample_2s(lane, x, sigma, n, true);
    return 0;
}

/* The exponential integrator's weights for a step of length h in lambda and twice the decay (eta =
 * 1): phi_1 = 1 - e^-z of the constant part, phi_2 and phi_3 of the slope and the curvature, z = 2
 * h. */
typedef struct phis {
    double h, one, two, three;
} phis;

static phis phis_of(double sigma, double next)
{
    double h = log(sigma / next), z = 2 * h;
    double two = expm1(-z) / z + 1;
    return (phis){.h = h, .one = -expm1(-z), .two = two, .three = two / z - 0.5};
}

/* x decays, tends to the estimate `one * denoised`, and takes up the step's noise. */
static void first_order(ks_lane *lane, ks_tensor *x, const ks_tensor *denoised, double sigma,
                        double next, phis p)
{
    ks_lincomb(lane, x, 2, (ks_term[]){{next / sigma * exp(-p.h), x}, {p.one, denoised}});
}

static void step_noise(ks_lane *lane, ks_tensor *x, ks_tensor *noise, double sigma, double next,
                       bool gpu)
{
    double h = log(sigma / next);
    add_brownian(lane, x, noise, sigma, next, gpu, next * sqrt(-expm1(-2 * h)));
}

/* SDE-DPM-Solver++(2M): the slope of D comes from the last step. heun: weighted as Heun's method
 * (phi_2), else as the midpoint method (phi_1 / 2). 1 evaluation a step. */
static void sample_2m(ks_lane *lane, ks_tensor *x, const double *sigma, int n, bool heun, bool gpu)
{
    ks_tensor *denoised = ks_tensor_new(lane), *old = ks_tensor_new(lane),
              *noise = ks_tensor_new(lane);
    double last = 0;
    for (int i = 0; i < n; i++) {
        double s = sigma[i], next = sigma[i + 1];
        ks_denoise(lane, denoised, x, s);
        if (next == 0) {
            ks_copy(lane, x, denoised);
            continue;
        }
        phis p = phis_of(s, next);
        first_order(lane, x, denoised, s, next, p);
        if (i > 0) {
            double slope = (heun ? p.two : p.one / 2) * p.h / last;
            ks_lincomb(lane, x, 3, (ks_term[]){{1, x}, {slope, denoised}, {-slope, old}});
        }
        step_noise(lane, x, noise, s, next, gpu);
        last = p.h;
        ks_tensor *swap = old;
        old = denoised;
        denoised = swap;
    }
}

int ks_sample_dpmpp_2m_sde(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    sample_2m(lane, x, sigma, n, false, false);
    return 0;
}

int ks_sample_dpmpp_2m_sde_gpu(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                               ks_error *err)
{
    (void)err;
    sample_2m(lane, x, sigma, n, false, true);
    return 0;
}

int ks_sample_dpmpp_2m_sde_heun(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                ks_error *err)
{
    (void)err;
    sample_2m(lane, x, sigma, n, true, false);
    return 0;
}

int ks_sample_dpmpp_2m_sde_heun_gpu(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                                    ks_error *err)
{
    (void)err;
    sample_2m(lane, x, sigma, n, true, true);
    return 0;
}

/* x += phi_2 * slope - phi_3 * curvature of D, by divided differences over this and the last two
 * steps. r0 and r1: the last two steps' lengths over this one's. */
static void third_order(ks_lane *lane, ks_tensor *x, ks_tensor *const d[3], phis p, double r0,
                        double r1)
{
    double share = r0 / (r0 + r1), both = 1 / (r0 + r1);
    double newer = p.two * (1 + share) - p.three * both; /* weight of (d0 - d1) / r0 */
    double older = -p.two * share + p.three * both;      /* weight of (d1 - d2) / r1 */
    ks_lincomb(
        lane, x, 4,
        (ks_term[]){
            {1, x}, {newer / r0, d[0]}, {older / r1 - newer / r0, d[1]}, {-older / r1, d[2]}});
}

/* SDE-DPM-Solver++(3M). 1 evaluation a step. */
static void sample_3m(ks_lane *lane, ks_tensor *x, const double *sigma, int n, bool gpu)
{
    ks_tensor *d[3] = {ks_tensor_new(lane), ks_tensor_new(lane), ks_tensor_new(lane)};
    ks_tensor *noise = ks_tensor_new(lane);
    double last = 0, before = 0;
    for (int i = 0; i < n; i++) {
        double s = sigma[i], next = sigma[i + 1];
        ks_denoise(lane, d[0], x, s);
        if (next == 0) {
            ks_copy(lane, x, d[0]);
            continue;
        }
        phis p = phis_of(s, next);
        first_order(lane, x, d[0], s, next, p);
        if (i > 1) {
            third_order(lane, x, d, p, last / p.h, before / p.h);
        } else if (i == 1) {
            double slope = p.two * p.h / last;
            ks_lincomb(lane, x, 3, (ks_term[]){{1, x}, {slope, d[0]}, {-slope, d[1]}});
        }
        step_noise(lane, x, noise, s, next, gpu);
        before = last;
        last = p.h;
        ks_tensor *oldest = d[2];
        d[2] = d[1];
        d[1] = d[0];
        d[0] = oldest;
    }
}

int ks_sample_dpmpp_3m_sde(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    sample_3m(lane, x, sigma, n, false);
    return 0;
}

int ks_sample_dpmpp_3m_sde_gpu(ks_lane *lane, ks_tensor *x, const double *sigma, int n,
                               ks_error *err)
{
    (void)err;
    sample_3m(lane, x, sigma, n, true);
    return 0;
}
