#include "cluster/target.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/units.h"
#include "cluster/record.h"

int ks_target_unwritable(const char *output, ks_error *err)
{
    return ks_error_set(err, "%s: the output cannot be written there: %s", output, strerror(errno));
}

int ks_target_check(const char *output, ks_error *err)
{
    struct stat status;
    if (!stat(output, &status) && !S_ISREG(status.st_mode))
        return ks_error_set(err, "%s: the output exists and is no regular file", output);
    char *folder = ks_path_beside(output, ".");
    int rc = folder && access(folder, W_OK | X_OK) ? ks_target_unwritable(output, err) : 0;
    free(folder);
    return rc;
}

/* Whether an output was begun with another layout than the job's, which gives other bits. */
static int match_layout(const ks_job *job, const char *old, ks_error *err)
{
    char *own = ks_record_parallel(job);
    int rc = 0;
    if (strcmp(old, own))
        rc = ks_error_set(err, "%s was begun with parallel %s, this run has %s: put it back, or name another output.file", job->output,
                          old, own);
    free(own);
    return rc;
}

int ks_target_match(const ks_setup *setup, const ks_ops *ops, const ks_store_info *old, ks_error *err)
{
    const ks_job *job = setup->job;
    const int *s = setup->shape;
    if (setup->sha256[0] && strcmp(old->model_sha256, setup->sha256))
        return ks_error_set(err, "%s was begun with another model (sha256 %.12s..., now %.12s...): name another output.file",
                            job->output, old->model_sha256, setup->sha256);
    if (old->channels != s[1] || old->height != s[2] || old->width != s[3])
        return ks_error_set(err, "%s holds latents of %d x %d x %d, this job makes %d x %d x %d: name another output.file",
                            job->output, old->channels, old->height, old->width, s[1], s[2], s[3]);
    if (old->float16 != job->latents_float16 || old->images != job->images)
        return ks_error_set(err, "%s was begun with latents as %s, images %s: keep output.latents and output.images, or name "
                            "another output.file", job->output, old->float16 ? "float16" : "float32", old->images ? "on" : "off");
    if (ops && (strcmp(old->backend, ops->name) || strcmp(old->precision, ops->precision)))
        return ks_error_set(err, "%s was begun on %s in %s, this run is on %s in %s: name another output.file", job->output,
                            old->backend, old->precision, ops->name, ops->precision);
    return match_layout(job, old->parallel, err);
}

int ks_target_open(const ks_setup *setup, const ks_ops *ops, ks_store_info **old, ks_error *err)
{
    *old = NULL;
    if (ks_target_check(setup->job->output, err))
        return -1;
    int found = ks_store_info_read(setup->job->output, old, err);
    return found <= 0 ? found : ks_target_match(setup, ops, *old, err);
}

int ks_target_check_rows(const ks_job *job, int begun, ks_error *err)
{
    if (!job->batch_rows || begun == job->batch_rows)
        return 0;
    return ks_error_set(err, "%s: parallel.batch_rows is %d and %s was begun with %d: leave it out or keep it", job->path,
                        job->batch_rows, job->output, begun);
}

int ks_target_check_foreign(const ks_job *job, uint64_t begun, uint64_t foreign, ks_error *err)
{
    if (!foreign)
        return 0;
    bool shrunk = ks_job_samples(job) < begun;
    return ks_error_set(err, "%s holds %llu samples that this job does not ask for: name another output.file, or put their values back%s",
                        job->output, (unsigned long long)foreign,
                        shrunk ? "; where only values were taken out, render the rest with --filter and the job as it was" : "");
}

/* Bytes that are free to us; -1: not known. */
static double free_bytes(const char *output)
{
    char *folder = ks_path_beside(output, ".");
    struct statvfs fs;
    bool known = folder && !statvfs(folder, &fs);
    free(folder);
    return known ? (double)fs.f_bavail * (double)fs.f_frsize : -1;
}

static bool is_merged(const ks_setup *setup)
{
    return !strcmp(ks_record_collect_mode(setup), "merge");
}

/* What is to be rendered must fit now, and the merged file when everything is. */
static void judge(const ks_setup *setup, double todo, double left, double merged, ks_target_room *room)
{
    double available = free_bytes(setup->job->output);
    char needed[32], there[32];
    ks_size_text(available, there, sizeof there);
    room->renders = available < 0 || todo <= available;
    room->merges = available < 0 || left + merged <= available;
    if (!room->renders) {
        ks_size_text(todo, needed, sizeof needed);
        snprintf(room->text, sizeof room->text, "what is left to render takes %s and its disk has %s free", needed, there);
    } else if (!room->merges) {
        ks_size_text(left + merged, needed, sizeof needed);
        snprintf(room->text, sizeof room->text, "what is left to render fits on its disk, but merging, which makes a second copy, takes %s "
                 "in all and %s are free: make room by then, or use --set output.collect=virtual", needed, there);
    }
}

int ks_target_find_room(const ks_setup *setup, const ks_ops *ops, const ks_target_want *want, ks_target_room *room, ks_error *err)
{
    ks_record record;
    *room = (ks_target_room){.renders = true, .merges = true};
    if (ks_record_open(&record, setup, ops, 1, err))
        return -1;
    double batch = setup->shape[0], samples = (double)(want->done + want->left) * batch;
    bool merged = is_merged(setup);
    double shards = ks_store_shard_bytes(&record.info, samples);
    double out = ks_store_out_bytes(&record.info, samples, !merged);
    double todo = want->todo ? ks_store_shard_bytes(&record.info, (double)want->todo * batch) : 0;
    double left = want->left ? ks_store_shard_bytes(&record.info, (double)want->left * batch) : 0;
    room->output = merged ? out : out + shards;
    room->most = out + shards;
    judge(setup, todo, left, merged ? out : 0, room);
    ks_record_close(&record);
    return 0;
}

static bool lacked_room(const ks_error *err)
{
    return err && (strstr(err->text, strerror(ENOSPC)) || strstr(err->text, strerror(EDQUOT)));
}

int ks_target_not_collected(const ks_setup *setup, ks_error *err)
{
    if (!is_merged(setup) || !lacked_room(err))
        return -1;
    ks_error why = *err;
    return ks_error_set(err, "%s; all that is rendered is safe: merging makes a second copy of it; make room for that and go on with the "
                        "same command, or with --set output.collect=virtual", why.text);
}
