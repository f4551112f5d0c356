#include "sampling/schedule.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sampling/beta_ppf.h"

/* Sigmas go through the same float32 roundings as torch's. A float32 function of a float is its
 * value in long double, rounded once: the nearest float, whichever variant of a function the C
 * library picks. */

static float exp32(float x)
{
    return (float)expl(x);
}

static float log32(float x)
{
    return (float)logl(x);
}

/* torch's linspace element: from the nearer end, with one fused multiplication and addition. */
static float linspace32(float from, float to, int n, int i)
{
    if (n == 1)
        return from;
    float step = (to - from) / (float)(n - 1);
    return i < n / 2 ? fmaf(step, (float)i, from) : fmaf(-step, (float)(n - 1 - i), to);
}

/* Lin et al. 2023, algorithm 1: sqrt(alpha_bar) is shifted to end at zero and stretched to keep
 * its first value; the last alpha_bar is then a small positive number, so that sigma stays
 * finite. */
static void rescale_to_zero_snr(double sigma[KS_TIMESTEPS])
{
    const double last_alpha_bar = 4.8973451890853435e-08;
    double root[KS_TIMESTEPS];
    for (int i = 0; i < KS_TIMESTEPS; i++)
        root[i] = sqrt(1 / (sigma[i] * sigma[i] + 1));
    double first = root[0], last = root[KS_TIMESTEPS - 1];
    for (int i = 0; i < KS_TIMESTEPS; i++) {
        double r = (root[i] - last) * (first / (first - last));
        double alpha_bar = i == KS_TIMESTEPS - 1 ? last_alpha_bar : r * r;
        sigma[i] = sqrt((1 - alpha_bar) / alpha_bar);
    }
}

void ks_model_sampling_init(ks_model_sampling *ms, ks_prediction prediction, bool zsnr,
                            double linear_start, double linear_end)
{
    double sigma[KS_TIMESTEPS], from = sqrt(linear_start), to = sqrt(linear_end);
    double step = (to - from) / (KS_TIMESTEPS - 1), alpha_bar = 1;
    for (int i = 0; i < KS_TIMESTEPS; i++) {
        double root = i < KS_TIMESTEPS / 2 ? from + step * i : to - step * (KS_TIMESTEPS - 1 - i);
        alpha_bar *= 1 - root * root;
        sigma[i] = sqrt((1 - alpha_bar) / alpha_bar);
    }
    if (zsnr)
        rescale_to_zero_snr(sigma);
    ms->prediction = prediction;
    ms->zsnr = zsnr;
    for (int i = 0; i < KS_TIMESTEPS; i++) {
        ms->sigma[i] = (float)sigma[i];
        ms->log_sigma[i] = (float)logl(sigma[i]);
    }
}

float ks_sigma_max(const ks_model_sampling *ms)
{
    return ms->sigma[KS_TIMESTEPS - 1];
}

float ks_sigma_min(const ks_model_sampling *ms)
{
    return ms->sigma[0];
}

int ks_timestep_of_sigma(const ks_model_sampling *ms, float sigma)
{
    float log_sigma = log32(sigma);
    int nearest = 0;
    for (int i = 1; i < KS_TIMESTEPS; i++)
        if (fabsf(log_sigma - ms->log_sigma[i]) < fabsf(log_sigma - ms->log_sigma[nearest]))
            nearest = i;
    return nearest;
}

float ks_sigma_of_timestep(const ks_model_sampling *ms, float t)
{
    const float last = KS_TIMESTEPS - 1;
    t = t > 0 ? fminf(t, last) : 0;
    float below = floorf(t), part = t - below;
    float low = ms->log_sigma[(int)below], high = ms->log_sigma[(int)ceilf(t)];
    return exp32((1 - part) * low + part * high);
}

double ks_percent_to_sigma(const ks_model_sampling *ms, double percent)
{
    if (percent <= 0)
        return 999999999.9;
    if (percent >= 1)
        return 0;
    return ks_sigma_of_timestep(ms, (float)((1 - percent) * (KS_TIMESTEPS - 1)));
}

/* The schedulers: each writes its list for n >= 1 steps, with its final 0, into out and gives the
 * length. Room: n + 1, and KS_TIMESTEPS for the one that can be longer. */
typedef int schedule_fn(const ks_model_sampling *ms, int n, float *out);

static int simple(const ks_model_sampling *ms, int n, float *out)
{
    double stride = (double)KS_TIMESTEPS / n;
    for (int i = 0; i < n; i++)
        out[i] = ms->sigma[KS_TIMESTEPS - 1 - (int)(i * stride)];
    out[n] = 0;
    return n + 1;
}

static int normal(const ks_model_sampling *ms, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = ks_sigma_of_timestep(ms, linspace32(KS_TIMESTEPS - 1, 0, n, i));
    out[n] = 0;
    return n + 1;
}

static int sgm_uniform(const ks_model_sampling *ms, int n, float *out)
{
    for (int i = 0; i < n; i++)
        out[i] = ks_sigma_of_timestep(ms, linspace32(KS_TIMESTEPS - 1, 0, n + 1, i));
    out[n] = 0;
    return n + 1;
}

/* Karras et al. 2022, equation 5, rho = 7. */
static int karras(const ks_model_sampling *ms, int n, float *out)
{
    const double rho = 7;
    double from = pow(ks_sigma_max(ms), 1 / rho), to = pow(ks_sigma_min(ms), 1 / rho);
    float first = (float)from, change = (float)(to - from);
    for (int i = 0; i < n; i++)
        out[i] = (float)powl(first + linspace32(0, 1, n, i) * change, (long double)rho);
    out[n] = 0;
    return n + 1;
}

static int exponential(const ks_model_sampling *ms, int n, float *out)
{
    float from = log32(ks_sigma_max(ms)), to = log32(ks_sigma_min(ms));
    for (int i = 0; i < n; i++)
        out[i] = exp32(linspace32(from, to, n, i));
    out[n] = 0;
    return n + 1;
}

static int ddim_uniform(const ks_model_sampling *ms, int n, float *out)
{
    int stride = KS_TIMESTEPS / n > 1 ? KS_TIMESTEPS / n : 1, count = 0;
    for (int t = 1 + (KS_TIMESTEPS - 2) / stride * stride; t >= 1; t -= stride)
        out[count++] = ms->sigma[t];
    out[count++] = 0;
    return count;
}

/* Lee et al. 2024, "Beta sampling is all you need", arXiv 2407.12173, with a = b = 0.6. */
static int beta(const ks_model_sampling *ms, int n, float *out)
{
    double last = -1, step = 1.0 / n;
    int count = 0;
    for (int i = 0; i < n; i++) {
        double t = rint(ks_beta_ppf(1 - i * step, 0.6, 0.6) * (KS_TIMESTEPS - 1));
        if (t != last)
            out[count++] = ms->sigma[(int)t];
        last = t;
    }
    out[count++] = 0;
    return count;
}

/* 1 - sigma / sigma_max rises linearly to the threshold in the first half of the steps, then as the
 * parabola that goes on with the same slope and reaches 1 (Movie Gen, arXiv 2410.13720). */
static int linear_quadratic(const ks_model_sampling *ms, int n, float *out)
{
    const double threshold = 0.025;
    int linear = n / 2, quadratic = n - linear;
    float top = ks_sigma_max(ms);
    for (int i = 0; i < n; i++) {
        double line = linear ? threshold * i / linear : 0;
        double beyond = i > linear ? (double)(i - linear) / quadratic : 0;
        double bend = linear ? 1 - threshold * n / linear : 0;
        out[i] = (float)(1 - line - bend * beyond * beyond) * top;
    }
    out[n] = 0;
    return n + 1;
}

/* Sabour et al. 2024, "Align your steps", arXiv 2404.14507: tan of a linear mix of angles. */
static int kl_optimal(const ks_model_sampling *ms, int n, float *out)
{
    float low = (float)atanl(ks_sigma_min(ms)), high = (float)atanl(ks_sigma_max(ms));
    for (int i = 0; i < n; i++) {
        float part = (float)i / (float)(n - 1);
        out[i] = (float)tanl(part * low + (1 - part) * high);
    }
    out[n] = 0;
    return n + 1;
}

static const struct {
    const char *name;
    schedule_fn *make;
    int least; /* steps below which it is not a number */
} schedulers[] = {
    {"simple", simple, 1},
    {"sgm_uniform", sgm_uniform, 1},
    {"karras", karras, 1},
    {"exponential", exponential, 1},
    {"ddim_uniform", ddim_uniform, 1},
    {"beta", beta, 1},
    {"normal", normal, 1},
    {"linear_quadratic", linear_quadratic, 1},
    {"kl_optimal", kl_optimal, 2},
};

int ks_scheduler_find(const char *name)
{
    for (int i = 0; i < ks_scheduler_count(); i++)
        if (strcmp(schedulers[i].name, name) == 0)
            return i;
    return -1;
}

int ks_scheduler_count(void)
{
    return (int)(sizeof schedulers / sizeof schedulers[0]);
}

const char *ks_scheduler_name(int scheduler)
{
    return schedulers[scheduler].name;
}

/* Above this, denoise counts as 1. */
static const double WHOLE_DENOISE = 0.9999;

/* Steps of the whole schedule of which the last `steps` are used: KSampler's denoise. -1
 * with err. */
static int whole_steps(int scheduler, int steps, double denoise, ks_error *err)
{
    const char *name = schedulers[scheduler].name;
    if (steps < 1)
        return ks_error_set(err, "scheduler %s: steps is %d, and must be 1 or more", name, steps);
    if (isnan(denoise))
        return ks_error_set(err, "scheduler %s: denoise is not a number, and must be 0 to 1", name);
    double whole = denoise > WHOLE_DENOISE ? steps : trunc(steps / denoise);
    if (whole > KS_SCHEDULE_MAX_STEPS)
        return ks_error_set(
            err,
            "scheduler %s: %d steps with denoise %g are the end of a schedule of %.0f steps; "
            "at most %d are possible, so take fewer steps or a larger denoise",
            name, steps, denoise, whole, KS_SCHEDULE_MAX_STEPS);
    return (int)whole;
}

/* Removes all before the last `keep` values. */
static int keep_last(float *list, int count, int keep)
{
    if (count <= keep)
        return count;
    memmove(list, list + count - keep, (size_t)keep * sizeof *list);
    return keep;
}

int ks_schedule(const ks_model_sampling *ms, int scheduler, int steps, double denoise,
                bool discard_penultimate, float **sigmas, int *count, ks_error *err)
{
    *sigmas = NULL;
    *count = 0;
    if (denoise <= 0 && steps >= 1)
        return 0;
    int n = whole_steps(scheduler, steps, denoise, err);
    if (n < 0)
        return -1;
    n += discard_penultimate;
    if (n < schedulers[scheduler].least)
        return ks_error_set(
            err,
            "scheduler %s with steps %d and denoise %g is not a number (0/0): use 2 steps or more, "
            "a smaller denoise, or another scheduler",
            schedulers[scheduler].name, steps, denoise);
    float *list = malloc((size_t)(n > KS_TIMESTEPS ? n + 1 : KS_TIMESTEPS + 1) * sizeof *list);
    if (!list)
        return ks_error_set(err, "out of memory for a schedule of %d steps", n);
    int length = schedulers[scheduler].make(ms, n, list);
    if (discard_penultimate) {
        list[length - 2] = list[length - 1];
        length--;
    }
    *count = denoise > WHOLE_DENOISE ? length : keep_last(list, length, steps + 1);
    *sigmas = list;
    return 0;
}

int ks_schedule_cut(float *sigmas, int count, int start, int end, bool leftover_noise)
{
    if (end < count - 1) {
        count = end + 1;
        if (!leftover_noise)
            sigmas[end] = 0;
    }
    return start < count - 1 ? keep_last(sigmas, count, count - start) : 0;
}
