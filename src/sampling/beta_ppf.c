#include "sampling/beta_ppf.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

static double log_beta(double a, double b)
{
    int sign; /* lgamma would write a global */
    return lgamma_r(a, &sign) + lgamma_r(b, &sign) - lgamma_r(a + b, &sign);
}

/* Keeps a denominator of the continued fraction off zero. */
static double nonzero(double x)
{
    return fabs(x) < 1e-300 ? 1e-300 : x;
}

/* The continued fraction of NIST DLMF 8.17.22 by the modified Lentz method; it converges fast for
 * x < (a + 1) / (a + b + 2). */
static double beta_fraction(double x, double a, double b)
{
    enum { TERMS = 10000 };
    double c = 1, d = 1 / nonzero(1 - (a + b) * x / (a + 1)), value = d;
    for (int m = 1; m < TERMS; m++) {
        double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        d = 1 / nonzero(1 + even * d);
        c = nonzero(1 + even / c);
        value *= c * d;
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        d = 1 / nonzero(1 + odd * d);
        c = nonzero(1 + odd / c);
        value *= c * d;
        if (fabs(c * d - 1) < DBL_EPSILON)
            break;
    }
    return value;
}

/* I_x(a, b); DLMF 8.17.4 mirrors it where the fraction is slow. */
static double regularised_beta(double x, double a, double b)
{
    double front = exp(a * log(x) + b * log1p(-x) - log_beta(a, b));
    if (x < (a + 1) / (a + b + 2))
        return front * beta_fraction(x, a, b) / a;
    return 1 - front * beta_fraction(1 - x, b, a) / b;
}

/* The quantile where it lies in (0, 1/2]: Newton's method on ln x, bisecting when a step leaves the
 * bracket. It begins at the leading term I_x ~ x^a / (a B(a, b)). */
static double lower_quantile(double p, double a, double b)
{
    double low = 0, high = 0.5, x = fmin(exp((log(p * a) + log_beta(a, b)) / a), 0.5);
    for (int i = 0; i < 200; i++) {
        double excess = regularised_beta(x, a, b) - p;
        if (excess == 0)
            break;
        *(excess > 0 ? &high : &low) = x;
        double density = exp(a * log(x) + (b - 1) * log1p(-x) - log_beta(a, b)); /* dI / d ln x */
        double next = x * exp(-excess / density);
        if (!(next > low && next < high))
            next = 0.5 * (low + high);
        bool settled = fabs(next - x) <= DBL_EPSILON * x;
        x = next;
        if (settled)
            break;
    }
    return x;
}

double ks_beta_ppf(double p, double a, double b)
{
    if (p <= 0)
        return 0;
    if (p >= 1)
        return 1;
    if (a == b && p == 0.5)
        return 0.5; /* by symmetry, to the last bit */
    if (p <= regularised_beta(0.5, a, b))
        return lower_quantile(p, a, b);
    return 1 - lower_quantile(1 - p, b, a);
}
