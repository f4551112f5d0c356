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

typedef struct ks_run_summary { /* meaningful on rank 0 */
    char output[4096];          /* path of the collected file */
    uint64_t samples; /* of the sweep that pass the filters */
    uint64_t done_before, rendered, failed;
    int parts;        /* N of the shard; 0: the run was for all of them */
    bool collected;   /* false: other parts are not done, and `missing` samples have no row yet */
    uint64_t missing;
    double seconds, rendering_seconds;
    double rows, rows_saved;  /* network rows computed, and answered by an equal first row */
    double rows_filled;       /* 0..1, until each rank's last lease was taken up */
    double decoding;          /* 0..1 of the rendering time */
    double outside_network;   /* 0..1 of it: neither network nor decoding */
    int rank, ranks;
} ks_run_summary;

typedef struct ks_run_options {
    ks_job_source job;
    int threads;        /* CPU threads of a rank; 0: its share of the CPUs */
    const char *const *filters; /* "AXIS=VALUES": only samples that pass all of them are rendered */
    int filter_count;
    const char *shard;  /* "I/N", I from 0: only this part of them; or NULL */
    double log_seconds; /* a progress line each so many seconds when stderr is no terminal; 0: 60 */
    bool quiet;         /* no progress line */
    bool share_gpus;    /* several ranks may render on one GPU */
    double deadline_seconds; /* a rank that has not rendered what it was lent by then loses it to others; 0: 600 */
    /* Called on every rank with what ks_run is about to return, or NULL. The place to print it: the ranks have not parted yet, and a
     * launcher may end the others as soon as one of them has ended with an error. */
    void (*tell)(int code, const ks_run_summary *summary, const ks_error *err);
} ks_run_options;

/* SIGTERM, SIGINT and SIGUSR1 ask a run to stop from now on: it ends with KS_EXIT_RESUMABLE. ks_run does this itself; call it
 * first in a program whose start takes long. A second SIGINT ends the process. */
void ks_catch_signals(void);

/* Renders the job, or what is missing of it. Collective under an MPI launcher. Returns an exit code; on every rank, but
 * err.text is set only where the line is to be printed. */
int ks_run(const ks_run_options *options, ks_run_summary *summary, ks_error *err);

/* What would run, as text for people. Of the options, threads and what is shown do not matter. It tells of an output that a run
 * would refuse, but for one of another model, whose file is not read through. Writes nothing. */
char *ks_plan(const ks_run_options *options, ks_error *err);

/* How to render a job on a Slurm cluster. Numbers that are 0 and texts that are NULL are left to Slurm where nothing is said. */
typedef struct ks_submit_options {
    ks_job_source job;
    const char *program; /* ksweep as the nodes see it; NULL: this process' own */
    int nodes;           /* 0: 1 */
    int gpus_per_node;
    int tasks_per_node; /* 0: one a GPU; without GPUs as many as have one model */
    int cpus_per_task;  /* 0 without GPUs: whole nodes */
    const char *time, *partition, *account;
    bool preemptible;          /* the job goes back into the queue when it is stopped early */
    const char *const *sbatch; /* more options of sbatch: "--mem=64G" */
    int sbatch_count;
} ks_submit_options;

/* The batch script that does it, after a look at the job and its model. */
char *ks_submit_script(const ks_submit_options *options, ks_error *err);

/* The same into a file, after a look at the place of the output too. One that is there is replaced only when it was written by this function. */
int ks_submit_write(const ks_submit_options *options, const char *path, ks_error *err);

typedef struct ks_counts { /* of an output's sweep */
    uint64_t samples, done, failed, missing;
} ks_counts;

/* How far a run is, from its files. Latents are held against their digests up to 1 GiB of them; check: however many there are. */
char *ks_status_text(const char *output, bool check, ks_counts *counts, ks_error *err);

/* Draws a contact sheet. x, y: axis names or NULL for the largest; cell: pixels of a cell, 0 for the pictures' own size. Of files
 * that are there only a PNG file is replaced, and none that belongs to the output. */
int ks_sheet(const char *output, const char *x, const char *y, const char *png, int cell, ks_error *err);

typedef struct ks_verify_result {
    uint64_t rows, bad;            /* rows whose digest was tested, and failed */
    uint64_t rendered, different;  /* samples rendered again, and not equal bit by bit */
    ks_counts samples;             /* as ks_status_text counts them */
} ks_verify_result;

/* The job file that renders one row again, alone: absolute paths, all that decides bits as it was recorded. A row of a latent's
 * batch brings the whole batch. */
char *ks_show(const char *output, uint64_t row, ks_error *err);

/* Tests every row's digest and renders `samples` of them again, spread over the sweep. */
int ks_verify(const char *output, uint64_t samples, int threads, ks_verify_result *result, ks_error *err);

/* What a checkpoint is, by its tensors, as text for people. */
char *ks_model_text(const char *path, ks_error *err);

#pragma GCC visibility pop

#endif
