#include "cluster/record.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "ksweep/ksweep.h"
#include "sampling/sampler.h"

static void collect_labels(ks_record *r, const ks_job *job)
{
    size_t count = (size_t)job->positives + (size_t)job->negatives + (size_t)job->latents;
    r->labels = ks_calloc(count, sizeof *r->labels);
    char **label = r->labels;
    r->info.positive = label;
    for (int i = 0; i < job->positives; i++)
        *label++ = job->positive[i].label;
    r->info.negative = label;
    for (int i = 0; i < job->negatives; i++)
        *label++ = job->negative[i].label;
    r->info.latent_image = label;
    for (int i = 0; i < job->latents; i++)
        *label++ = job->latent[i].label;
}

static void collect_names(ks_record *r)
{
    int samplers = ks_sampler_count(), schedulers = ks_scheduler_count();
    r->names = ks_calloc((size_t)(samplers + schedulers), sizeof *r->names);
    for (int i = 0; i < samplers; i++)
        r->names[i] = ks_sampler_at(i)->name;
    for (int i = 0; i < schedulers; i++)
        r->names[samplers + i] = ks_scheduler_name(i);
    r->info.samplers = samplers;
    r->info.schedulers = schedulers;
    r->info.sampler_names = r->names;
    r->info.scheduler_names = r->names + samplers;
}

/* How far apart in the sweep neighbouring values of an axis stand. */
static uint64_t stride_of(const ks_job *job, ks_axis axis)
{
    uint64_t stride = 1;
    for (int a = (int)ks_job_leader(job, axis) + 1; a < KS_AXES; a++) {
        if (!job->behind[a])
            stride *= ks_job_axis_size(job, (ks_axis)a);
    }
    return stride;
}

char *ks_record_parallel(const ks_job *job)
{
    return ks_format("{\"tensor\":%d,\"rows\":%d}", job->tensor, job->rows);
}

int ks_record_open(ks_record *r, const ks_setup *setup, const ks_ops *ops, int rows, ks_error *err)
{
    ks_job *job = setup->job;
    *r = (ks_record){0};
    r->job_path = realpath(job->path, NULL);
    if (!r->job_path)
        return ks_error_set(err, "%s: %s", job->path, strerror(errno));
    r->parallel = ks_record_parallel(job);
    r->info = (ks_store_info){
        .samples = ks_job_samples(job),
        .channels = setup->shape[1],
        .height = setup->shape[2],
        .width = setup->shape[3],
        .float16 = job->latents_float16,
        .images = job->images,
        .job = job->text,
        .job_path = r->job_path,
        .model = job->model,
        .model_sha256 = (char *)setup->sha256,
        .version = (char *)ks_version(),
        .backend = (char *)ops->name,
        .device = (char *)ops->device,
        .precision = (char *)ops->precision,
        .noise_device = job->noise_device,
        .parallel = r->parallel,
        .axis_files = job->axis_files,
        .batch_rows = rows,
        .positives = job->positives,
        .negatives = job->negatives,
        .latents = job->latents,
        .start_time = (double)time(NULL),
    };
    for (int a = 0; a < 3; a++)
        r->info.label_stride[a] = stride_of(job, (ks_axis)a);
    collect_labels(r, job);
    collect_names(r);
    return 0;
}

void ks_record_close(ks_record *r)
{
    free(r->labels);
    free(r->names);
    free(r->parallel);
    free(r->job_path);
    *r = (ks_record){0};
}

ks_row ks_record_row(const ks_setup *setup, uint64_t index, int64_t nfe, bool failed)
{
    ks_sample s;
    ks_job_sample(setup->job, index, &s);
    return (ks_row){
        .index = index,
        .seed = s.seed,
        .steps = (uint32_t)s.steps,
        .cfg = s.cfg,
        .denoise = s.denoise,
        .sampler = s.sampler,
        .scheduler = s.scheduler,
        .positive = (uint32_t)s.positive,
        .negative = (uint32_t)s.negative,
        .latent_image = (uint32_t)s.latent,
        .batch = (uint32_t)s.batch,
        .nfe = nfe > UINT_MAX ? UINT_MAX : (uint32_t)nfe,
        .status = failed ? KS_FAILED : KS_DONE,
        .key = ks_job_key(setup->job, &setup->digests, &s),
    };
}

const char *ks_record_collect_mode(const ks_setup *setup)
{
    const ks_job *job = setup->job;
    if (strcmp(job->collect, "auto"))
        return job->collect;
    double cells = (double)setup->shape[2] * setup->shape[3];
    double row = cells * setup->shape[1] * (job->latents_float16 ? 2 : 4) + (job->images ? cells * 64 * 3 : 0);
    return row * (double)ks_job_samples(job) <= 8 * 0x1p30 ? "merge" : "virtual";
}
