#include "sampling/samplers/steps.h"

#include <math.h>

double ks_log_f32(double x)
{
    return (double)(float)log(x);
}

double ks_exp_f32(double x)
{
    return (double)(float)exp(x);
}

double ks_sigma_between(double sigma, double next, double r)
{
    float from = (float)-log(sigma), to = (float)-log(next);
    float step = to - from;
    float way = (float)r * step;
    float there = from + way;
    return ks_exp_f32(-(double)there);
}

ks_ancestral ks_ancestral_split(double sigma, double next)
{
    float from = (float)sigma, to = (float)next;
    float from2 = from * from, to2 = to * to;
    float product = to2 * (from2 - to2);
    float up = fminf(to, sqrtf(product / from2));
    float up2 = up * up;
    return (ks_ancestral){.down = (double)sqrtf(to2 - up2), .up = (double)up};
}

void ks_euler_step(ks_lane *lane, ks_tensor *x, const ks_tensor *denoised, double sigma,
                   double next)
{
    ks_lincomb(lane, x, 2, (ks_term[]){{next / sigma, x}, {1 - next / sigma, denoised}});
}

void ks_derivative(ks_lane *lane, ks_tensor *d, const ks_tensor *x, const ks_tensor *denoised,
                   double sigma)
{
    ks_lincomb(lane, d, 2, (ks_term[]){{1 / sigma, x}, {-1 / sigma, denoised}});
}

void ks_copy(ks_lane *lane, ks_tensor *out, const ks_tensor *x)
{
    ks_lincomb(lane, out, 1, (ks_term[]){{1, x}});
}

void ks_add_noise(ks_lane *lane, ks_tensor *x, ks_tensor *noise, double scale)
{
    if (scale == 0)
        return;
    ks_noise(lane, noise);
    ks_lincomb(lane, x, 2, (ks_term[]){{1, x}, {scale, noise}});
}

void ks_lagrange(const double *u, int count, int j, double *c)
{
    int degree = 0;
    c[0] = 1;
    for (int k = 0; k < count; k++) {
        if (k == j)
            continue;
        double scale = 1 / (u[j] - u[k]);
        c[degree + 1] = c[degree] * scale;
        for (int i = degree; i > 0; i--)
            c[i] = (c[i - 1] - u[k] * c[i]) * scale;
        c[0] *= -u[k] * scale;
        degree++;
    }
}
