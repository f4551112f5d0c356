#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "job/job.h"
#include "sampling/sampler.h"
#include "sampling/schedule.h"

struct ks_job_keyer {
    const ks_job_digests *digests;
    ks_hash128 head;       /* what all samples share */
    ks_hash128 *sampler;   /* [rows of the table]: name, and noise_device where it draws */
    ks_hash128 *scheduler; /* [rows of the table]: name */
};

/* Six digests, then batch, seed, steps, cfg and denoise: 8 bytes each, lowest first. */
enum { KEY_BYTES = 6 * sizeof(ks_hash128) + 5 * 8 };

/* Names, not rows of the table: adding a sampler must not change the keys of the others. */
static ks_hash128 sampler_digest(const ks_sampler *sampler, const ks_noise_device *noise)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, sampler->name);
    if (sampler->stochastic) {
        ks_hasher_add_u64(h, (uint64_t)noise->kind);
        ks_hasher_add_u64(h, noise->kind == KS_NOISE_CUDA ? (uint64_t)noise->multiprocessors : 0);
    }
    return ks_hasher_end(h);
}

/* KSampler (Advanced), where it differs from KSampler. Leftover noise is what a cut leaves. */
static void add_advanced(ks_hasher *h, const ks_job *job)
{
    bool cut = job->end_at_step < KS_LAST_STEP;
    if (job->add_noise && job->start_at_step == 0 && !cut)
        return;
    ks_hasher_add_text(h, "advanced");
    ks_hasher_add_u64(h, job->add_noise);
    ks_hasher_add_u64(h, (uint64_t)job->start_at_step);
    ks_hasher_add_u64(h, (uint64_t)job->end_at_step);
    ks_hasher_add_u64(h, cut && job->leftover_noise);
}

static ks_hash128 head_digest(const ks_job *job, const ks_job_digests *digests)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, "ksweep sample 1");
    ks_hasher_add(h, digests->model.byte, sizeof digests->model.byte);
    ks_hasher_add_text(h, job->prediction);
    ks_hasher_add_u64(h, job->zsnr);
    add_advanced(h, job);
    return ks_hasher_end(h);
}

ks_job_keyer *ks_job_keyer_new(const ks_job *job, const ks_job_digests *digests)
{
    ks_job_keyer *keyer = ks_calloc(1, sizeof *keyer);
    int samplers = ks_sampler_count(), schedulers = ks_scheduler_count();
    keyer->digests = digests;
    keyer->head = head_digest(job, digests);
    keyer->sampler = ks_calloc((size_t)samplers, sizeof *keyer->sampler);
    keyer->scheduler = ks_calloc((size_t)schedulers, sizeof *keyer->scheduler);
    for (int i = 0; i < samplers; i++)
        keyer->sampler[i] = sampler_digest(ks_sampler_at(i), &job->noise);
    for (int i = 0; i < schedulers; i++) {
        const char *name = ks_scheduler_name(i);
        keyer->scheduler[i] = ks_hash(name, strlen(name));
    }
    return keyer;
}

void ks_job_keyer_free(ks_job_keyer *keyer)
{
    if (!keyer)
        return;
    free(keyer->sampler);
    free(keyer->scheduler);
    free(keyer);
}

static uint8_t *put_hash(uint8_t *out, const ks_hash128 *hash)
{
    memcpy(out, hash->byte, sizeof hash->byte);
    return out + sizeof hash->byte;
}

static uint8_t *put_u64(uint8_t *out, uint64_t value)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(value >> (8 * i));
    return out + 8;
}

static uint8_t *put_f64(uint8_t *out, double value)
{
    uint64_t bits;
    value = value == 0 ? 0 : value; /* -0.0 */
    memcpy(&bits, &value, sizeof bits);
    return put_u64(out, bits);
}

ks_hash128 ks_job_keyer_key(const ks_job_keyer *keyer, const ks_sample *sample)
{
    uint8_t bytes[KEY_BYTES], *end = bytes;
    end = put_hash(end, &keyer->head);
    end = put_hash(end, &keyer->digests->positive[sample->positive]);
    end = put_hash(end, &keyer->digests->negative[sample->negative]);
    end = put_hash(end, &keyer->digests->latent[sample->latent]);
    end = put_hash(end, &keyer->sampler[sample->sampler]);
    end = put_hash(end, &keyer->scheduler[sample->scheduler]);
    end = put_u64(end, (uint64_t)sample->batch);
    end = put_u64(end, sample->seed);
    end = put_u64(end, (uint64_t)sample->steps);
    end = put_f64(end, sample->cfg);
    end = put_f64(end, sample->denoise);
    return ks_hash(bytes, (size_t)(end - bytes));
}

ks_hash128 ks_job_key(const ks_job *job, const ks_job_digests *digests, const ks_sample *sample)
{
    ks_job_keyer *keyer = ks_job_keyer_new(job, digests);
    ks_hash128 key = ks_job_keyer_key(keyer, sample);
    ks_job_keyer_free(keyer);
    return key;
}
