/* Quantiles of the beta distribution. */
#ifndef KS_SAMPLING_BETA_PPF_H
#define KS_SAMPLING_BETA_PPF_H

/* x with I_x(a, b) = p, the inverse of the regularised incomplete beta function; a, b > 0, p in
 * [0, 1]. Relative error some 1e-14 for a and b from 0.1 to 100. */
double ks_beta_ppf(double p, double a, double b);

#endif
