#include "job/sweep.h"

#include <stddef.h>

/* The axes, slowest first, and where the job counts their values (an int). */
static const struct {
    const char *name;
    size_t count; /* offset in ks_job; the seeds' own count is 64 bits wide */
} axes[KS_AXES] = {
    [KS_AXIS_POSITIVE] = {"positive", offsetof(ks_job, positives)},
    [KS_AXIS_NEGATIVE] = {"negative", offsetof(ks_job, negatives)},
    [KS_AXIS_LATENT] = {"latent_image", offsetof(ks_job, latents)},
    [KS_AXIS_DENOISE] = {"denoise", offsetof(ks_job, denoises)},
    [KS_AXIS_SCHEDULER] = {"scheduler", offsetof(ks_job, schedulers)},
    [KS_AXIS_SAMPLER] = {"sampler_name", offsetof(ks_job, samplers)},
    [KS_AXIS_CFG] = {"cfg", offsetof(ks_job, cfgs)},
    [KS_AXIS_STEPS] = {"steps", offsetof(ks_job, steps_count)},
    [KS_AXIS_SEED] = {"seed", 0},
    [KS_AXIS_BATCH] = {"batch", offsetof(ks_job, batch)},
};

const char *ks_axis_name(ks_axis axis)
{
    return axes[axis].name;
}

uint64_t ks_job_axis_size(const ks_job *job, ks_axis axis)
{
    if (axis == KS_AXIS_SEED)
        return job->seed_count;
    return (uint64_t)*(const int *)((const char *)job + axes[axis].count);
}

ks_axis ks_job_leader(const ks_job *job, ks_axis axis)
{
    return (ks_axis)((int)axis - job->behind[axis]);
}

uint64_t ks_job_samples(const ks_job *job)
{
    uint64_t samples = 1;
    for (int a = 0; a < KS_AXES; a++)
        if (!job->behind[a])
            samples *= ks_job_axis_size(job, (ks_axis)a);
    return samples;
}

int ks_sweep_check(const ks_job *job, ks_error *err)
{
    uint64_t samples = 1;
    for (int a = 0; a < KS_AXES; a++) {
        if (job->behind[a])
            continue;
        bool over = __builtin_mul_overflow(samples, ks_job_axis_size(job, (ks_axis)a), &samples);
        if (over || samples > INT64_MAX)
            return ks_error_set(err, "%s: %s: makes the sweep larger than 9223372036854775807 "
                                "samples; give fewer values", job->path, axes[a].name);
    }
    return 0;
}

void ks_job_coordinates(const ks_job *job, uint64_t index, uint64_t at[KS_AXES])
{
    for (int a = KS_AXES - 1; a >= 0; a--) {
        if (job->behind[a])
            continue;
        uint64_t size = ks_job_axis_size(job, (ks_axis)a);
        at[a] = index % size;
        index /= size;
    }
    for (int a = 0; a < KS_AXES; a++)
        at[a] = at[ks_job_leader(job, (ks_axis)a)];
}

uint64_t ks_job_index(const ks_job *job, const uint64_t at[KS_AXES])
{
    uint64_t index = 0;
    for (int a = 0; a < KS_AXES; a++)
        if (!job->behind[a])
            index = index * ks_job_axis_size(job, (ks_axis)a) + at[a];
    return index;
}

/* Output function of splitmix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
 * generators", with the constants of Vigna's splitmix64): state + k * gamma, mixed. */
static uint64_t splitmix64(uint64_t start, uint64_t k)
{
    uint64_t z = start + k * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

uint64_t ks_job_seed(const ks_job *job, uint64_t k)
{
    if (job->seed_list)
        return job->seed_list[k];
    switch (job->control) {
    case KS_INCREMENT:
        return job->seed_start + k * job->seed_step;
    case KS_DECREMENT:
        return job->seed_start - k * job->seed_step;
    case KS_RANDOMIZE:
        return k == 0 ? job->seed_start : splitmix64(job->seed_start, k);
    case KS_FIXED:
        break;
    }
    return job->seed_start;
}

void ks_job_sample(const ks_job *job, uint64_t index, ks_sample *out)
{
    uint64_t at[KS_AXES];
    ks_job_coordinates(job, index, at);
    *out = (ks_sample){
        .index = index,
        .seed = ks_job_seed(job, at[KS_AXIS_SEED]),
        .steps = job->steps[at[KS_AXIS_STEPS]],
        .cfg = job->cfg[at[KS_AXIS_CFG]],
        .denoise = job->denoise[at[KS_AXIS_DENOISE]],
        .sampler = job->sampler[at[KS_AXIS_SAMPLER]],
        .scheduler = job->scheduler[at[KS_AXIS_SCHEDULER]],
        .positive = (int)at[KS_AXIS_POSITIVE],
        .negative = (int)at[KS_AXIS_NEGATIVE],
        .latent = (int)at[KS_AXIS_LATENT],
        .batch = (int)at[KS_AXIS_BATCH],
    };
}
