#include "cluster/guess.h"

enum { LOOKED_THROUGH = 4096 }; /* values of an axis at most: a longer one would take longer than looking for the key */

static int64_t place_of_int(const int *values, int count, int64_t wanted)
{
    for (int i = 0; i < count && i < LOOKED_THROUGH; i++)
        if (values[i] == wanted)
            return i;
    return -1;
}

static int64_t place_of_double(const double *values, int count, double wanted)
{
    for (int i = 0; i < count && i < LOOKED_THROUGH; i++)
        if (values[i] == wanted)
            return i;
    return -1;
}

/* Seeds of a range are found by calculation, those of a list one by one; a stream's are not found. */
static int64_t place_of_seed(const ks_job *job, uint64_t seed)
{
    uint64_t away = job->control == KS_DECREMENT ? job->seed_start - seed : seed - job->seed_start;
    if (!job->seed_list && (job->control == KS_INCREMENT || job->control == KS_DECREMENT) && job->seed_step)
        return away % job->seed_step == 0 && away / job->seed_step < job->seed_count ? (int64_t)(away / job->seed_step) : -1;
    for (uint64_t k = 0; k < job->seed_count && k < LOOKED_THROUGH; k++)
        if (ks_job_seed(job, k) == seed)
            return (int64_t)k;
    return -1;
}

int64_t ks_guess_index(const ks_job *job, const ks_row *row)
{
    const int64_t place[KS_AXES] = {
        [KS_AXIS_POSITIVE] = row->positive,
        [KS_AXIS_NEGATIVE] = row->negative,
        [KS_AXIS_LATENT] = row->latent_image,
        [KS_AXIS_DENOISE] = place_of_double(job->denoise, job->denoises, row->denoise),
        [KS_AXIS_SCHEDULER] = place_of_int(job->scheduler, job->schedulers, row->scheduler),
        [KS_AXIS_SAMPLER] = place_of_int(job->sampler, job->samplers, row->sampler),
        [KS_AXIS_CFG] = place_of_double(job->cfg, job->cfgs, row->cfg),
        [KS_AXIS_STEPS] = place_of_int(job->steps, job->steps_count, row->steps),
        [KS_AXIS_SEED] = place_of_seed(job, row->seed),
        [KS_AXIS_BATCH] = row->batch,
    };
    uint64_t at[KS_AXES];
    for (int a = 0; a < KS_AXES; a++) {
        at[a] = (uint64_t)place[a];
        if (place[a] < 0 || at[a] >= ks_job_axis_size(job, (ks_axis)a))
            return -1;
    }
    return (int64_t)ks_job_index(job, at);
}
