/* Linear multistep methods on dx/dsigma = d(x, sigma) = (x - D(x)) / sigma: Adams-Bashforth with
 * the derivatives of the last steps, 1 evaluation a step. They differ in how the derivative is
 * continued into the step. The step to sigma 0 is Euler's. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

enum { MAX_ORDER = 4 };

/* The weights of d[0] (newest) .. d[order - 1] in the step from sigma[i] to sigma[i + 1]. */
typedef void weights_fn(const double *sigma, int i, int order, double *weight);

static int sample(ks_lane *lane, ks_tensor *x, const double *sigma, int n, int max_order,
                  weights_fn *weights)
{
    ks_tensor *denoised = ks_tensor_new(lane), *d[MAX_ORDER];
    for (int k = 0; k < max_order; k++)
        d[k] = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_denoise(lane, denoised, x, sigma[i]);
        if (sigma[i + 1] == 0) {
            ks_copy(lane, x, denoised);
            continue;
        }
        ks_tensor *newest = d[max_order - 1];
        for (int k = max_order - 1; k > 0; k--)
            d[k] = d[k - 1];
        d[0] = newest;
        ks_derivative(lane, newest, x, denoised, sigma[i]);
        int order = i + 1 < max_order ? i + 1 : max_order;
        double weight[MAX_ORDER];
        weights(sigma, i, order, weight);
        ks_term term[MAX_ORDER + 1] = {{1, x}};
        for (int k = 0; k < order; k++)
            term[k + 1] = (ks_term){weight[k], d[k]};
        ks_lincomb(lane, x, order + 1, term);
    }
    return 0;
}

/* Integrals over the step of the Lagrange polynomials through the last `order` sigmas:
 * variable-step Adams-Bashforth (Hairer, Norsett & Wanner, "Solving ordinary differential equations
 * I", III.5). */
static void adams_weights(const double *sigma, int i, int order, double *weight)
{
    double node[MAX_ORDER], h = sigma[i + 1] - sigma[i];
    for (int k = 0; k < order; k++)
        node[k] = (sigma[i - k] - sigma[i]) / h;
    for (int j = 0; j < order; j++) {
        double c[MAX_ORDER];
        ks_lagrange(node, order, j, c);
        weight[j] = 0;
        for (int k = 0; k < order; k++)
            weight[j] += h * c[k] / (k + 1);
    }
}

/* Fixed-step Adams-Bashforth weights, whatever the steps' lengths (Zhang & Chen 2023, "Fast
 * sampling of diffusion models with exponential integrator", arXiv 2204.13902: iPNDM; Liu et al.
 * 2022, PNDM, arXiv 2202.09778). */
static void fixed_weights(const double *sigma, int i, int order, double *weight)
{
    static const double table[MAX_ORDER][MAX_ORDER] = {{1},
                                                       {3 / 2., -1 / 2.},
                                                       {23 / 12., -16 / 12., 5 / 12.},
                                                       {55 / 24., -59 / 24., 37 / 24., -9 / 24.}};
    for (int k = 0; k < order; k++)
        weight[k] = (sigma[i + 1] - sigma[i]) * table[order - 1][k];
}

int ks_sample_lms(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, 4, adams_weights);
}

int ks_sample_ipndm(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, 4, fixed_weights);
}

/* iPNDM-v (Zhang & Chen 2023): the extrapolation in Newton's divided differences for the steps' own
 * lengths, h this one, h1, h2, h3 the last ones. Up to the second order that is adams_weights; the
 * weights of the second and third difference and the third one's last term are those of the
 * method's published code, which differ from the integrals (third order exact for equal steps only)
 * and are what ComfyUI computes. */
static void ipndm_v_weights(const double *sigma, int i, int order, double *weight)
{
    if (order < 3) {
        adams_weights(sigma, i, order, weight);
        return;
    }
    double h = sigma[i + 1] - sigma[i], h1 = sigma[i] - sigma[i - 1],
           h2 = sigma[i - 1] - sigma[i - 2];
    double r1 = h1 / h2, third = h / (3 * (h + h1));
    double first = h / (2 * h1), second = (1 - third * h * (h + h1) / (h1 * (h1 + h2))) / 2;
    weight[0] = h * (1 + first + second);
    weight[1] = -h * (first + (1 + r1) * second);
    weight[2] = h * r1 * second;
    if (order < 4)
        return;
    double h3 = sigma[i - 2] - sigma[i - 3], g = h1 * (h1 + h2) / (h2 * (h2 + h3));
    double product = h * (h + h1) * (h + h1 + h2) / (h1 * (h1 + h2) * (h1 + h2 + h3));
    double last = ((1 - third) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))) * product;
    weight[0] += h * last;
    weight[1] -= h * (1 + r1 + g) * last;
    weight[2] += h * (r1 + g * (1 + h2 / h3)) * last;
    weight[3] = -h * g * r1 * last;
}

int ks_sample_ipndm_v(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, 4, ipndm_v_weights);
}

/* --- DEIS --- */

/* The VP time of a sigma, beta linear in time, for which sigma(0.001) = 0.002 and sigma(1) = 80
 * (Song et al. 2021, arXiv 2011.13456; Karras et al. 2022, table 1): ln(sigma^2 + 1) = beta_d t^2 /
 * 2 + beta_min t. */
typedef struct vp_time {
    double beta_d, beta_min;
} vp_time;

static vp_time vp_time_new(void)
{
    const double first = 0.001, low = log1p(0.002 * 0.002), high = log1p(80.0 * 80.0);
    double beta_d = 2 * (low / first - high) / (first - 1);
    return (vp_time){beta_d, high - beta_d / 2};
}

static double time_of(vp_time vp, double sigma)
{
    return (sqrt(vp.beta_min * vp.beta_min + 2 * vp.beta_d * log1p(sigma * sigma)) - vp.beta_min) /
           vp.beta_d;
}

/* dsigma/dt = (beta_d t + beta_min) / 2 * e^L / sqrt(e^L - 1), L = ln(sigma^2 + 1). */
static double sigma_slope(vp_time vp, double t)
{
    double log_variance = vp.beta_d * t * t / 2 + vp.beta_min * t;
    return (vp.beta_d * t + vp.beta_min) / 2 * exp(log_variance) / sqrt(expm1(log_variance));
}

/* The integrand: Lagrange polynomial in t, given by its coefficients in (t - origin) / h, times
 * dsigma/dt. */
static double integrand(vp_time vp, const double *c, int order, double origin, double h,
                        double share)
{
    double value = 0;
    for (int k = order - 1; k >= 0; k--)
        value = value * share + c[k];
    return value * sigma_slope(vp, origin + share * h);
}

/* DEIS "tab" (Zhang & Chen 2023, arXiv 2204.13902, eq. 15): the derivative is a polynomial in the
 * VP time. The reference integrates with 10000 points, both ends included, each times h / 10000:
 * that sum is (1 - 1/N) * integral + h (f(0) + f(1)) / 2N up to 1e-9. The integral is Simpson's. */
static void deis_weights(const double *sigma, int i, int order, double *weight)
{
    enum { INTERVALS = 256 };
    const double points = 10000;
    vp_time vp = vp_time_new();
    double origin = time_of(vp, sigma[i]), h = time_of(vp, sigma[i + 1]) - origin, node[MAX_ORDER];
    for (int k = 0; k < order; k++)
        node[k] = (time_of(vp, sigma[i - k]) - origin) / h;
    for (int j = 0; j < order; j++) {
        double c[MAX_ORDER], sum = 0;
        ks_lagrange(node, order, j, c);
        double ends = integrand(vp, c, order, origin, h, 0) + integrand(vp, c, order, origin, h, 1);
        for (int k = 1; k < INTERVALS; k++)
            sum += (k % 2 ? 4 : 2) * integrand(vp, c, order, origin, h, (double)k / INTERVALS);
        double integral = h * (sum + ends) / (3 * INTERVALS);
        weight[j] = (1 - 1 / points) * integral + h * ends / (2 * points);
    }
    if (order == 1)
        weight[0] = sigma[i + 1] - sigma[i];
}

int ks_sample_deis(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, 3, deis_weights);
}
