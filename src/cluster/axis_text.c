#include "cluster/axis_text.h"

#include <stdio.h>
#include <stdlib.h>

#include "sampling/sampler.h"
#include "sampling/schedule.h"

void ks_number_text(double value, char *out, int size)
{
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(out, (size_t)size, "%.*g", digits, value);
        if (strtod(out, NULL) == value)
            return;
    }
}

void ks_axis_value_text(const ks_job *job, ks_axis axis, uint64_t k, char *out, int size)
{
    switch (axis) {
    case KS_AXIS_POSITIVE:
        snprintf(out, (size_t)size, "%s", job->positive[k].label);
        break;
    case KS_AXIS_NEGATIVE:
        snprintf(out, (size_t)size, "%s", job->negative[k].label);
        break;
    case KS_AXIS_LATENT:
        snprintf(out, (size_t)size, "%s", job->latent[k].label);
        break;
    case KS_AXIS_DENOISE:
        ks_number_text(job->denoise[k], out, size);
        break;
    case KS_AXIS_SCHEDULER:
        snprintf(out, (size_t)size, "%s", ks_scheduler_name(job->scheduler[k]));
        break;
    case KS_AXIS_SAMPLER:
        snprintf(out, (size_t)size, "%s", ks_sampler_at(job->sampler[k])->name);
        break;
    case KS_AXIS_CFG:
        ks_number_text(job->cfg[k], out, size);
        break;
    case KS_AXIS_STEPS:
        snprintf(out, (size_t)size, "%d", job->steps[k]);
        break;
    case KS_AXIS_SEED:
        snprintf(out, (size_t)size, "%llu", (unsigned long long)ks_job_seed(job, k));
        break;
    default:
        snprintf(out, (size_t)size, "%llu", (unsigned long long)k);
    }
}
