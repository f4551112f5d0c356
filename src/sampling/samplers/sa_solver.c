/* SA-Solver: a stochastic Adams predictor of order 3 and corrector of order 4 in the data
 * prediction (Xue et al. 2023, arXiv 2309.05019, algorithm 1), on lambda = -ln sigma. tau(sigma) =
 * 1 between percent_to_sigma(0.2) and (0.8), else 0 (an ODE step). 1 evaluation a step; PECE
 * evaluates the corrected state again. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

enum { PREDICTOR = 3, CORRECTOR = 4 };

/* moment[k] = integral over u in [-h, 0] of c e^(c u) u^k, k < count, by parts. */
static void moments(double h, double c, int count, double *moment)
{
    moment[0] = -expm1(-c * h);
    for (int k = 1; k < count; k++)
        moment[k] = -pow(-h, k) * exp(-c * h) - k / c * moment[k - 1];
}

/* weight[j] of the estimate at node[j] (sigmas, newest first) in a step to sigma `next`: the
 * integral of its Lagrange polynomial in lambda against (1 + tau^2) e^(-(1 + tau^2)(lambda_next -
 * lambda)), equations 14 and 17. */
static void adams_weights(const double *node, int order, double sigma, double next, double tau,
                          double *weight)
{
    double u[CORRECTOR], moment[CORRECTOR], h = log(sigma / next);
    moments(h, 1 + tau * tau, order, moment);
    for (int k = 0; k < order; k++)
        u[k] = log(next / node[k]);
    for (int j = 0; j < order; j++) {
        double c[CORRECTOR];
        ks_lagrange(u, order, j, c);
        weight[j] = 0;
        for (int k = 0; k < order; k++)
            weight[j] += c[k] * moment[k];
    }
}

/* out = decayed x + weighted estimates + scale * noise. */
static void adams_step(ks_lane *lane, ks_tensor *out, const ks_tensor *x,
                       ks_tensor *const *estimate, int order, const double *weight, double sigma,
                       double next, double tau, const ks_tensor *noise, double scale)
{
    ks_term term[CORRECTOR + 2] = {{next / sigma * exp(-tau * tau * log(sigma / next)), x}};
    for (int k = 0; k < order; k++)
        term[k + 1] = (ks_term){weight[k], estimate[k]};
    term[order + 1] = (ks_term){scale, noise};
    ks_lincomb(lane, out, scale > 0 ? order + 2 : order + 1, term);
}

/* Orders that step i of n may use: no more than there are estimates, and lower ones near a sigma of
 * 0. */
static int predictor_order(const double *sigma, int n, int i)
{
    int order = i + 1 < PREDICTOR ? i + 1 : PREDICTOR;
    return sigma[n] == 0 && order > n - 1 - i ? n - 1 - i : order;
}

static int corrector_order(const double *sigma, int n, int i, bool pece)
{
    if (i == 0 || (sigma[i + 1] == 0 && !pece))
        return 0;
    int order = i + 1 < CORRECTOR ? i + 1 : CORRECTOR;
    return sigma[n] == 0 && order > n - i ? n - i : order;
}

static int sample(ks_lane *lane, ks_tensor *x, const double *sigma, int n, bool pece)
{
    const ks_model_sampling *ms = ks_lane_model_sampling(lane);
    double high = ks_percent_to_sigma(ms, 0.2), low = ks_percent_to_sigma(ms, 0.8), tau = 0,
           scale = 0;
    ks_tensor *predicted = ks_tensor_new(lane), *e[CORRECTOR];
    ks_tensor *noise = ks_tensor_new(lane), *unused = ks_tensor_new(lane);
    double node[CORRECTOR] = {0}, weight[CORRECTOR];
    for (int k = 0; k < CORRECTOR; k++)
        e[k] = ks_tensor_new(lane);
    for (int i = 0; i < n; i++) {
        ks_tensor *newest = e[CORRECTOR - 1];
        for (int k = CORRECTOR - 1; k > 0; k--) {
            e[k] = e[k - 1];
            node[k] = node[k - 1];
        }
        e[0] = newest;
        node[0] = sigma[i];
        ks_denoise(lane, e[0], i == 0 ? x : predicted, sigma[i]);
        int order = corrector_order(sigma, n, i, pece);
        if (order > 0) {
            adams_weights(node, order, sigma[i - 1], sigma[i], tau, weight);
            adams_step(lane, x, x, e, order, weight, sigma[i - 1], sigma[i], tau, noise, scale);
            if (pece)
                ks_denoise(lane, e[0], x, sigma[i]);
        } else if (i > 0) {
            ks_copy(lane, x, predicted);
        }
        if (sigma[i + 1] == 0) {
            ks_copy(lane, x, e[0]);
            return 0;
        }
        tau = sigma[i + 1] >= low && sigma[i + 1] <= high ? 1 : 0;
        scale = sigma[i + 1] * sqrt(-expm1(-2 * tau * tau * log(sigma[i] / sigma[i + 1])));
        ks_tensor *swap = noise; /* the corrector's: the next draw need not wait for it */
        noise = unused;
        unused = swap;
        if (scale > 0)
            ks_noise(lane, noise);
        order = predictor_order(sigma, n, i);
        adams_weights(node, order, sigma[i], sigma[i + 1], tau, weight);
        adams_step(lane, predicted, x, e, order, weight, sigma[i], sigma[i + 1], tau, noise, scale);
    }
    return 0;
}

int ks_sample_sa_solver(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, false);
}

int ks_sample_sa_solver_pece(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, true);
}
