/* Job files for tests: a small good one, and variations of it by --set. */
#ifndef TESTS_JOB_FILE_H
#define TESTS_JOB_FILE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/file.h"
#include "job/job.h"

#define SMALL_JOB                                                                                  \
    "{\"ksweep\": 1, \"model\": \"m.safetensors\", \"positive\": \"a red circle\","                \
    " \"latent_image\": {\"width\": 128, \"height\": 128}, \"output\": {\"file\": \"out.h5\"}}"

/* The path of a new job file of this text; the caller removes the file and frees the path. */
static inline char *write_job(const char *text)
{
    const char *folder = getenv("TMPDIR");
    char *path = ks_format("%s/ksweep-job-XXXXXX", folder ? folder : P_tmpdir);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    return path;
}

/* The job of a text with one change (NULL: none); NULL with err when it is refused. */
static inline ks_job *try_job(const char *text, const char *set, ks_error *err)
{
    char *path = write_job(text);
    ks_job *job = ks_job_load(path, &set, set ? 1 : 0, err);
    unlink(path);
    free(path);
    return job;
}

/* The same, which must succeed. */
static inline ks_job *load_job(const char *text, const char *set)
{
    ks_error err = KS_ERROR_NONE;
    ks_job *job = try_job(text, set, &err);
    if (!job)
        fail_msg("%s: %s", set ? set : text, err.text);
    return job;
}

static inline ks_job *small_job(const char *set)
{
    return load_job(SMALL_JOB, set);
}

/* The job must be refused in one line that names the file, then says exactly `what`. */
static inline void job_is_refused(const char *text, const char *set, const char *what)
{
    ks_error err = KS_ERROR_NONE;
    ks_job *job = try_job(text, set, &err);
    if (job) {
        ks_job_free(job);
        fail_msg("%s: was accepted", set ? set : text);
    }
    const char *behind = strstr(err.text, "ksweep-job-");
    assert_non_null(behind);
    behind += strlen("ksweep-job-XXXXXX");
    assert_int_equal(strncmp(behind, ": ", 2), 0);
    assert_null(strchr(err.text, '\n'));
    assert_string_equal(behind + 2, what);
}

static inline void small_job_is_refused(const char *set, const char *what)
{
    job_is_refused(SMALL_JOB, set, what);
}

#endif
