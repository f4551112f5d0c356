#include "cluster/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

enum { MOST_LATENTS = 4096 }; /* of one KSampler call */

/* "output.file=" and the path from the root: that is no JSON, so it is taken as a string as it is. */
static char *output_set(const char *output, ks_error *err)
{
    if (output[0] == '/')
        return ks_format("output.file=%s", output);
    char *here = getcwd(NULL, 0);
    if (!here) {
        ks_error_set(err, "the current folder cannot be found: %s", strerror(errno));
        return NULL;
    }
    char *text = ks_format("output.file=%s/%s", here, output);
    free(here);
    return text;
}

/* The output's path without detours, where its folder exists: what people are told, and what is recorded. */
static void straighten_output(ks_job *job)
{
    char *slash = strrchr(job->output, '/');
    char *folder = slash ? strndup(job->output, (size_t)(slash - job->output) + 1) : ks_strdup("./");
    char *real = folder ? realpath(folder, NULL) : NULL;
    if (real) {
        char *path = ks_format("%s/%s", strcmp(real, "/") ? real : "", slash ? slash + 1 : job->output);
        free(job->output);
        job->output = path;
    }
    free(real);
    free(folder);
}

ks_job *ks_job_from_source(const ks_job_source *source, ks_error *err)
{
    const char **sets = ks_calloc((size_t)source->set_count + 1, sizeof *sets);
    int count = source->set_count;
    char *output = NULL;
    ks_job *job = NULL;
    if (count)
        memcpy(sets, source->sets, sizeof *sets * (size_t)count);
    if (source->output) {
        output = output_set(source->output, err);
        if (!output)
            goto cleanup;
        sets[count++] = output;
    }
    job = ks_job_load(source->path, sets, count, err);
    if (job)
        straighten_output(job);
cleanup:
    free(output);
    free(sets);
    return job;
}

ks_job *ks_job_of_output(const ks_store_info *info, ks_error *err)
{
    ks_job *job = ks_job_parse(info->job_path, info->job, err);
    if (!job)
        return NULL;
    uint64_t points = ks_job_samples(job) / (uint64_t)job->batch, batch = info->samples / points;
    bool fits = batch >= 1 && batch <= MOST_LATENTS && batch * points == info->samples && !ks_job_set_batch(job, (int)batch, NULL);
    bool same_files = !strcmp(job->axis_files, info->axis_files);
    if (fits && same_files)
        return job;
    if (!same_files)
        ks_error_set(err, "%s: the files that axes of this job are read from have changed since it was rendered", info->job_path);
    else
        ks_error_set(err, "%s: this job does not make the %llu samples that its output tells of: the file is damaged, or was "
                     "not written by ksweep", info->job_path, (unsigned long long)info->samples);
    ks_job_free(job);
    return NULL;
}
