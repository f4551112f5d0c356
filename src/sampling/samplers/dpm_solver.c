/* DPM-Solver in log-SNR time (Lu et al. 2022, arXiv 2206.00927): single-step solvers of order 1 to
 * 3 on t = -ln sigma, where x' = e^-t eps(x, t) with eps = (x - D) / sigma. dpm_fast spends a fixed
 * number of evaluations, dpm_adaptive chooses its steps. Both end at the last positive sigma. Times
 * are float32, as torch has them, because they decide the network's timesteps. */
#include <math.h>

#include "sampling/samplers/samplers.h"
#include "sampling/samplers/steps.h"

typedef struct solver {
    ks_lane *lane;
    ks_tensor *denoised, *stage;      /* scratch */
    ks_tensor *eps, *eps_r1, *eps_r2; /* eps at t, and at the two inner times */
} solver;

static solver solver_new(ks_lane *lane)
{
    return (solver){lane,
                    ks_tensor_new(lane),
                    ks_tensor_new(lane),
                    ks_tensor_new(lane),
                    ks_tensor_new(lane),
                    ks_tensor_new(lane)};
}

static double sigma_of(float t)
{
    return ks_exp_f32(-(double)t);
}

static float time_of(double sigma)
{
    return (float)-log(sigma);
}

static void evaluate(solver *s, ks_tensor *eps, const ks_tensor *x, float t)
{
    ks_denoise(s->lane, s->denoised, x, sigma_of(t));
    ks_derivative(s->lane, eps, x, s->denoised, sigma_of(t));
}

/* The time a share r into the step, and that step's length as float32 has it. */
static float inner_time(float t, float t_next, float r)
{
    float h = t_next - t;
    float part = r * h;
    return t + part;
}

/* eps_r1 at the share r1 of the step; eps must be known. */
static void inner_stage(solver *s, const ks_tensor *x, float t, float t_next, double r1)
{
    float t1 = inner_time(t, t_next, (float)r1);
    double h = (double)(t_next - t);
    ks_lincomb(s->lane, s->stage, 2, (ks_term[]){{1, x}, {-sigma_of(t1) * expm1(r1 * h), s->eps}});
    evaluate(s, s->eps_r1, s->stage, t1);
}

/* out = the 1st order solution at t_next (DDIM; equation 3.7). out may be x, here and below. */
static void finish_1(solver *s, ks_tensor *out, const ks_tensor *x, float t, float t_next)
{
    double h = (double)(t_next - t);
    ks_lincomb(s->lane, out, 2, (ks_term[]){{1, x}, {-sigma_of(t_next) * expm1(h), s->eps}});
}

/* The 2nd order solution from eps and eps_r1 (algorithm 4). */
static void finish_2(solver *s, ks_tensor *out, const ks_tensor *x, float t, float t_next,
                     double r1)
{
    double h = (double)(t_next - t), scale = -sigma_of(t_next) * expm1(h);
    double second = scale / (2 * r1);
    ks_lincomb(s->lane, out, 3, (ks_term[]){{1, x}, {scale - second, s->eps}, {second, s->eps_r1}});
}

/* The 3rd order solution, with one more stage at the share r2 (algorithm 5). */
static void finish_3(solver *s, ks_tensor *out, const ks_tensor *x, float t, float t_next,
                     double r1, double r2)
{
    double h = (double)(t_next - t);
    float t2 = inner_time(t, t_next, (float)r2);
    double scale = -sigma_of(t2) * expm1(r2 * h);
    double second = -sigma_of(t2) * (r2 / r1) * (expm1(r2 * h) / (r2 * h) - 1);
    ks_lincomb(s->lane, s->stage, 3,
               (ks_term[]){{1, x}, {scale - second, s->eps}, {second, s->eps_r1}});
    evaluate(s, s->eps_r2, s->stage, t2);
    scale = -sigma_of(t_next) * expm1(h);
    second = -sigma_of(t_next) / r2 * (expm1(h) / h - 1);
    ks_lincomb(s->lane, out, 3, (ks_term[]){{1, x}, {scale - second, s->eps}, {second, s->eps_r2}});
}

/* The last positive sigma. */
static double end_of(const double *sigma, int n)
{
    return sigma[n] > 0 ? sigma[n] : sigma[n - 1];
}

/* Time k of `steps` equal steps, counted from the nearer end as torch.linspace does. */
static float grid_time(float start, float end, int steps, int k)
{
    float step = (end - start) / (float)steps;
    if (k < (steps + 1) / 2)
        return start + step * (float)k;
    return end - step * (float)(steps - k);
}

/* n evaluations: steps of order 3, and the remainder as one of lower order, or as 2 + 1. */
int ks_sample_dpm_fast(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    (void)err;
    float start = time_of(sigma[0]), end = time_of(end_of(sigma, n));
    if (end <= start)
        return 0;
    solver s = solver_new(lane);
    int steps = n / 3 + 1;
    for (int k = 0; k < steps; k++) {
        int order = 3;
        if (n % 3 != 0 && k == steps - 1)
            order = n % 3;
        else if (n % 3 == 0 && k >= steps - 2)
            order = steps - k;
        float t = grid_time(start, end, steps, k), t_next = grid_time(start, end, steps, k + 1);
        evaluate(&s, s.eps, x, t);
        if (order > 1)
            inner_stage(&s, x, t, t_next, order == 2 ? 0.5 : 1.0 / 3);
        if (order == 1)
            finish_1(&s, x, x, t, t_next);
        else if (order == 2)
            finish_2(&s, x, x, t, t_next, 0.5);
        else
            finish_3(&s, x, x, t, t_next, 1.0 / 3, 2.0 / 3);
    }
    return 0;
}

/* Order 3 with the embedded order 2 as its error estimate (Lu et al. 2022, section 4.2 and appendix
 * C), rtol 0.05, atol 0.0078, first step 0.05. The step grows with 1 / error^(1/3), softened by an
 * arctangent (Soederlind & Wang 2006, "Adaptive time-stepping and computational stability"); a step
 * whose factor is below 0.81 is tried again, from the same first evaluation. */
int ks_sample_dpm_adaptive(ks_lane *lane, ks_tensor *x, const double *sigma, int n, ks_error *err)
{
    const double rtol = 0.05, atol = 0.0078, accept = 0.81;
    solver s = solver_new(lane);
    ks_tensor *low = ks_tensor_new(lane), *high = ks_tensor_new(lane),
              *previous = ks_tensor_new(lane);
    ks_tensor *difference = ks_tensor_new(lane);
    float t = time_of(sigma[0]), end = time_of(end_of(sigma, n));
    double step = 0.05;
    bool accepted = true;
    ks_copy(lane, previous, x);
    while (t < end - 1e-5F) {
        float t_next = fminf(end, t + (float)step);
        if (!(t_next > t))
            return ks_error_set(err, "sampler dpm_adaptive: the step size vanished at sigma %g",
                                sigma_of(t));
        if (accepted)
            evaluate(&s, s.eps, x, t);
        inner_stage(&s, x, t, t_next, 1.0 / 3);
        finish_2(&s, low, x, t, t_next, 1.0 / 3);
        finish_3(&s, high, x, t, t_next, 1.0 / 3, 2.0 / 3);
        ks_lincomb(lane, difference, 2, (ks_term[]){{1, low}, {-1, high}});
        double error = ks_error_norm(lane, difference, low, previous, atol, rtol);
        if (!isfinite(error))
            return ks_error_set(err, "sampler dpm_adaptive: the latent is not finite at sigma %g",
                                sigma_of(t));
        double factor = 1 + atan(pow(1 / (error + 1e-8), 1.0 / 3) - 1);
        accepted = factor >= accept;
        step *= factor;
        if (!accepted)
            continue;
        ks_copy(lane, previous, low);
        ks_copy(lane, x, high);
        t = t_next;
    }
    return 0;
}
