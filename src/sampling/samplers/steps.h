/* What several families of samplers share: scalar arithmetic on sigmas and the simplest updates.
 *
 * Where torch computes a sigma in float32 and then feeds it to the network or to the Brownian tree,
 * its last bit can decide a timestep or the noise: the *_f32 functions round at the same places. */
#ifndef KS_SAMPLING_SAMPLERS_STEPS_H
#define KS_SAMPLING_SAMPLERS_STEPS_H

#include "sampling/sampler.h"

/* Correctly rounded float32 logarithm and exponential of float32 values. */
double ks_log_f32(double x);
double ks_exp_f32(double x);

/* sigma a share r of the way from sigma to next in log sigma: exp(-(l + r (l_next - l))), l = -ln
 * sigma. */
double ks_sigma_between(double sigma, double next, double r);

/* A step from sigma to next as a deterministic step to `down` and fresh noise of standard deviation
 * `up`, so that down^2 + up^2 = next^2: the DDPM posterior's split (Ho et al. 2020, arXiv
 * 2006.11239, eq. 7). Rounded as float32, because down takes part in sigmas of the network. */
typedef struct ks_ancestral {
    double down, up;
} ks_ancestral;
ks_ancestral ks_ancestral_split(double sigma, double next);

/* x = x + (next - sigma) * (x - denoised) / sigma: Euler's step on dx/dsigma, from x at sigma to
 * next. */
void ks_euler_step(ks_lane *lane, ks_tensor *x, const ks_tensor *denoised, double sigma,
                   double next);

/* d = (x - denoised) / sigma, the derivative dx/dsigma. */
void ks_derivative(ks_lane *lane, ks_tensor *d, const ks_tensor *x, const ks_tensor *denoised,
                   double sigma);

/* out = x. */
void ks_copy(ks_lane *lane, ks_tensor *out, const ks_tensor *x);

/* x += scale * a fresh draw, made in noise. Draws nothing for scale 0. */
void ks_add_noise(ks_lane *lane, ks_tensor *x, ks_tensor *noise, double scale);

/* Coefficients of the Lagrange basis polynomial l_j through nodes u[0..count): c[k] of u^k. */
void ks_lagrange(const double *u, int count, int j, double *c);

#endif
