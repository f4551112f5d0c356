/* UniPC: unified predictor-corrector of order 3 in the data prediction (Zhao et al. 2023, arXiv
 * 2302.04867, algorithms 5 and 6), on lambda = -ln sigma; B(h) = h (bh1) or e^h - 1 (bh2). The
 * corrector reuses the next step's evaluation: 1 a step, none for the last. A final sigma of 0
 * becomes 0.001. */
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

enum { ORDER = 3 };

/* Solves the order x order system a rho = b by elimination with the largest pivots. */
static void solve(int order, double a[ORDER][ORDER], double *b, double *rho)
{
    for (int k = 0; k < order; k++) {
        int pivot = k;
        for (int i = k + 1; i < order; i++)
            pivot = fabs(a[i][k]) > fabs(a[pivot][k]) ? i : pivot;
        for (int j = 0; j < order; j++) {
            double swap = a[k][j];
            a[k][j] = a[pivot][j];
            a[pivot][j] = swap;
        }
        double swap = b[k];
        b[k] = b[pivot];
        b[pivot] = swap;
        for (int i = k + 1; i < order; i++) {
            double factor = a[i][k] / a[k][k];
            for (int j = k; j < order; j++)
                a[i][j] -= factor * a[k][j];
            b[i] -= factor * b[k];
        }
    }
    for (int i = order - 1; i >= 0; i--) {
        rho[i] = b[i];
        for (int j = i + 1; j < order; j++)
            rho[i] -= a[i][j] * rho[j];
        rho[i] /= a[i][i];
    }
}

/* rho for `count` differences at the shares r of the step: sum_k rho_k r_k^(i - 1) = i!
 * phi_(i+1)(-h) h / B for i = 1 .. count (equation 9, with the sign of -h kept in both). One
 * difference alone takes 1/2. */
static void difference_weights(int count, const double *r, double h, double b_of_h, double *rho)
{
    double a[ORDER][ORDER], b[ORDER], phi = expm1(-h) / -h - 1, factorial = 1;
    if (count == 1) {
        rho[0] = 0.5;
        return;
    }
    for (int i = 0; i < count; i++) {
        for (int k = 0; k < count; k++)
            a[i][k] = pow(r[k], i);
        b[i] = phi * factorial / b_of_h;
        factorial *= i + 2;
        phi = phi / -h - 1 / factorial;
    }
    solve(count, a, b, rho);
}

/* out = the step from sigma[step - 1] to sigma[step] by the estimates m[0] (newest) .. m[order -
 * 1], and with `next` the estimate at its end (the corrector). */
static void uni_step(ks_lane *lane, ks_tensor *out, const ks_tensor *x, const double *sigma,
                     int step, int order, ks_tensor *const *m, const ks_tensor *next, bool bh2)
{
    double ratio = sigma[step] / sigma[step - 1], h = -log(ratio), b_of_h = bh2 ? expm1(-h) : -h;
    double r[ORDER], rho[ORDER], base = 1 - ratio;
    int count = order - 1;
    for (int k = 0; k < count; k++)
        r[k] = log(sigma[step - 1] / sigma[step - 2 - k]) / h;
    r[count] = 1;
    difference_weights(next ? order : count, r, h, b_of_h, rho);
    ks_term term[ORDER + 2] = {{ratio, x}};
    int terms = 2;
    for (int k = 0; k < count; k++) {
        double weight = -b_of_h * rho[k] / r[k];
        term[terms++] = (ks_term){weight, m[k + 1]};
        base -= weight;
    }
    if (next) {
        double weight = -b_of_h * rho[count];
        term[terms++] = (ks_term){weight, next};
        base -= weight;
    }
    term[1] = (ks_term){base, m[0]};
    ks_lincomb(lane, out, terms, term);
}

static int sample(ks_lane *lane, ks_tensor *x, const double *given, int n, bool bh2)
{
    double *sigma = ks_lane_alloc(lane, (size_t)(n + 1) * sizeof *sigma);
    memcpy(sigma, given, (size_t)(n + 1) * sizeof *sigma);
    sigma[n] = sigma[n] > 0 ? sigma[n] : (double)0.001F;
    if (n == 1) { /* no room for an update: only the change of variables at both ends */
        double scale = sqrt((1 + sigma[1] * sigma[1]) / (1 + sigma[0] * sigma[0]));
        ks_lincomb(lane, x, 1, (ks_term[]){{scale, x}});
        return 0;
    }
    int max_order = n - 1 < ORDER ? n - 1 : ORDER;
    ks_tensor *predicted = ks_tensor_new(lane), *m[ORDER + 1];
    for (int k = 0; k <= ORDER; k++)
        m[k] = ks_tensor_new(lane);
    ks_denoise(lane, m[0], x, sigma[0]);
    for (int step = 1; step <= n; step++) {
        int order = step < max_order ? step : max_order;
        if (step >= max_order && order > n + 1 - step)
            order = n + 1 - step;
        if (step == n) {
            uni_step(lane, x, x, sigma, step, order, m, NULL, bh2);
            return 0;
        }
        uni_step(lane, predicted, x, sigma, step, order, m, NULL, bh2);
        ks_denoise(lane, m[ORDER], predicted, sigma[step]);
        uni_step(lane, x, x, sigma, step, order, m, m[ORDER], bh2);
        ks_tensor *newest = m[ORDER];
        for (int k = ORDER; k > 0; k--)
            m[k] = m[k - 1];
        m[0] = newest;
    }
    return 0;
}

int ks_sample_uni_pc(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, false);
}

int ks_sample_uni_pc_bh2(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    return sample(lane, x, sigma, n, true);
}
