/* libksweep: what the command line program is made of.
 *
 * A job file (docs/job-format.md) means a sweep of samples. ks_run renders it, alone or as one rank of many; the other
 * functions look at jobs, models and outputs.
 *
 *     ks_error err = KS_ERROR_NONE;
 *     ks_run_options options = {.job = "job.json"};
 *     ks_run_summary summary;
 *     int code = ks_run(&options, &summary, &err);
 *     if (err.text[0])
 *         fprintf(stderr, "%s\n", err.text);
 *     return code;
 *
 * Functions return 0, or -1 with one sentence in err, unless their comment says otherwise. Texts that are returned are new
 * memory: free() them. Nothing is printed but the log and the progress line, which go to stderr. */
#ifndef KSWEEP_KSWEEP_H
#define KSWEEP_KSWEEP_H

#include <stdbool.h>
#include <stdint.h>

#include "ksweep/error.h"

#pragma GCC visibility push(default)

/* Exit codes of `ksweep run`, and what ks_run returns. */
enum {
    KS_EXIT_DONE = 0,
    KS_EXIT_SOME_FAILED = 1,
    KS_EXIT_BAD_INPUT = 2,
    KS_EXIT_RESUMABLE = 75 /* stopped early; the same command goes on (EX_TEMPFAIL) */
};

/* "0.1.0 (revision)". */
const char *ks_version(void);

/* How a job is given: its file, and changes to it. */
typedef struct ks_job_source {
    const char *path;
    const char *output;      /* in place of output.file, as seen from the current folder; or NULL */
    const char *const *sets; /* "PATH=VALUE" */
    int set_count;
} ks_job_source;

typedef struct ks_run_options {
    ks_job_source job;
    int threads;        /* CPU threads of a rank; 0: its share of the CPUs */
    double log_seconds; /* a progress line each so many seconds when stderr is no terminal; 0: 60 */
    bool quiet;         /* no progress line */
} ks_run_options;

typedef struct ks_run_summary { /* meaningful on rank 0 */
    char output[4096];          /* path of the collected file */
    uint64_t samples, done_before, rendered, failed;
    double seconds, rendering_seconds;
    double rows, rows_saved;  /* network rows computed, and answered by an equal first row */
    double rows_filled;       /* 0..1, until each rank's last lease was taken up */
    double decoding;          /* 0..1 of the rendering time */
    double outside_network;   /* 0..1 of it: neither network nor decoding */
    int rank, ranks;
} ks_run_summary;

/* Renders the job, or what is missing of it. Collective under an MPI launcher. Returns an exit code; on every rank, but
 * err.text is set only where the line is to be printed. */
int ks_run(const ks_run_options *options, ks_run_summary *summary, ks_error *err);

/* What would run, as text for people. */
char *ks_plan(const ks_job_source *job, ks_error *err);

/* How far a run is, from its files; *complete: every sample is done or failed. */
char *ks_status_text(const char *output, bool *complete, ks_error *err);

/* Draws a contact sheet. x, y: axis names or NULL for the largest; cell: pixels of a cell, 0 for the pictures' own size. */
int ks_sheet(const char *output, const char *x, const char *y, const char *png, int cell, ks_error *err);

typedef struct ks_verify_result {
    uint64_t rows, bad;            /* rows whose digest was tested, and failed */
    uint64_t rendered, different;  /* samples rendered again, and not equal bit by bit */
} ks_verify_result;

/* Tests every row's digest and renders `samples` of them again, spread over the sweep. */
int ks_verify(const char *output, uint64_t samples, int threads, ks_verify_result *result, ks_error *err);

/* What a checkpoint is, by its tensors, as text for people. */
char *ks_model_text(const char *path, ks_error *err);

#pragma GCC visibility pop

#endif
