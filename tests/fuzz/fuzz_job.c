/* libFuzzer target: any bytes as a job file; what stands behind a NUL are --set expressions, one more NUL between them.
 * Every sample of a small sweep, and some of a large one, must have a place on every axis that gives its index back, and a
 * key. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "job/job.h"
#include "scratch.h"

enum { MOST_SETS = 4, LOOKED_AT = 64 };

static void look_at(const ks_job *job, const ks_job_keyer *keyer, uint64_t index)
{
    ks_sample sample;
    uint64_t at[KS_AXES];
    ks_job_sample(job, index, &sample);
    ks_job_keyer_key(keyer, &sample);
    ks_job_coordinates(job, index, at);
    for (int a = 0; a < KS_AXES; a++)
        if (at[a] >= ks_job_axis_size(job, (ks_axis)a))
            abort();
    if (ks_job_index(job, at) != index)
        abort();
}

static void look_at_sweep(const ks_job *job)
{
    size_t values = (size_t)job->positives + (size_t)job->negatives + (size_t)job->latents;
    ks_hash128 *digest = calloc(values, sizeof *digest);
    ks_job_digests digests = {.positive = digest,
                              .negative = digest + job->positives,
                              .latent = digest + job->positives + job->negatives};
    ks_job_keyer *keyer = digest ? ks_job_keyer_new(job, &digests) : NULL;
    uint64_t samples = ks_job_samples(job), step = samples / LOOKED_AT + 1;
    if (!samples)
        abort();
    for (uint64_t i = 0; i < samples && keyer; i += step) {
        look_at(job, keyer, i);
        if (samples - i <= step)
            break;
    }
    if (keyer)
        look_at(job, keyer, samples - 1);
    ks_job_keyer_free(keyer);
    free(digest);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1), path[64];
    const char *sets[MOST_SETS];
    int count = 0;
    if (!text)
        return 0;
    memcpy(text, data, size);
    text[size] = 0;
    size_t job_size = strlen(text);
    for (size_t at = job_size + 1; at < size && count < MOST_SETS; at += strlen(text + at) + 1)
        sets[count++] = text + at;
    int fd = fuzz_file(data, job_size, path);
    ks_error err = KS_ERROR_NONE;
    ks_job *job = ks_job_load(path, sets, count, &err);
    if (job)
        look_at_sweep(job);
    else if (!err.text[0])
        abort();
    ks_job_free(job);
    close(fd);
    free(text);
    return 0;
}
