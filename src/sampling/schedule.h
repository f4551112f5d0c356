/* Noise levels: the model's table, timesteps, and ComfyUI's nine schedulers.
 *
 * Sigma is the noise's standard deviation for a unit-variance signal (Karras et al. 2022,
 * arXiv 2206.00364). All sigmas are float32 values, made in float32 where torch does. */
#ifndef KS_SAMPLING_SCHEDULE_H
#define KS_SAMPLING_SCHEDULE_H

#include <stdbool.h>

#include "base/error.h"

typedef enum ks_prediction { KS_PREDICT_EPS, KS_PREDICT_V } ks_prediction;

enum { KS_TIMESTEPS = 1000 };

/* The discrete training schedule ("scaled linear" betas) of the SD family. */
typedef struct ks_model_sampling {
    ks_prediction prediction;
    bool zsnr; /* zero terminal SNR rescaling: Lin et al. 2023, arXiv 2305.08891, algorithm 1 */
    float sigma[KS_TIMESTEPS];
    float log_sigma[KS_TIMESTEPS];
} ks_model_sampling;

/* linear_start, linear_end: first and last beta (0.00085 and 0.012 for the SD family). */
void ks_model_sampling_init(ks_model_sampling *ms, ks_prediction prediction, bool zsnr,
                            double linear_start, double linear_end);

float ks_sigma_max(const ks_model_sampling *ms);
float ks_sigma_min(const ks_model_sampling *ms);
int ks_timestep_of_sigma(const ks_model_sampling *ms, float sigma);
/* t is clamped to 0..999; log-linear between timesteps. */
float ks_sigma_of_timestep(const ks_model_sampling *ms, float t);
double ks_percent_to_sigma(const ks_model_sampling *ms, double percent);

/* The scheduler's row in the table, by name; -1 when there is none. */
int ks_scheduler_find(const char *name);
int ks_scheduler_count(void);
const char *ks_scheduler_name(int scheduler);

/* More steps than this, after division by denoise, are refused. */
enum { KS_SCHEDULE_MAX_STEPS = 100000 };

/* The sigma list of a KSampler call before start and end steps are cut: falling, usually ends with
 * 0. discard_penultimate: the sampler's trait. On success *sigmas is new memory (free() it; NULL
 * when *count is 0) with *count values; *count is 0 when denoise <= 0. Fails where the schedule is
 * not finite (kl_optimal with 1 step), for steps < 1 and for a denoise that is no number or asks
 * for too many steps. */
int ks_schedule(const ks_model_sampling *ms, int scheduler, int steps, double denoise,
                bool discard_penultimate, float **sigmas, int *count, ks_error *err);

/* KSampler (Advanced): keeps the steps from `start` up to before `end` of a list and returns how
 * many values are left, 0 when there is no step among them. A cut end leaves its noise in the
 * latent, or becomes 0. start 0 and an end beyond the list keep all. */
int ks_schedule_cut(float *sigmas, int count, int start, int end, bool leftover_noise);

#endif
