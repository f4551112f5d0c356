/* How long does a run take from its start to its first lease, when much of a large sweep is done?
 *
 *     bench_resume JOB [--rows 1000000] [--shards 8] [--gap 2] [--folder .] [--within 0] [--keep]
 *
 * Writes shards as a run of the job would have (of every --gap samples one, all latents alike; nothing is rendered) into a
 * new output in --folder, and times what rank 0 does with them: ksweep status, reading what is done, the done points'
 * bitmap, the coordinator. Then the same once more, as a second restart would, which need not read what the first has read.
 * The rows are in the page cache where they
 * fit: on disks add the time that they take for that many bytes.
 *
 * One line a step: seconds, and the process' peak memory in MiB by then. The exit status is 1 when not all rows are found, or
 * when a step after the writing takes longer than --within seconds (0: any time is right). */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "backend/ops.h"
#include "base/file.h"
#include "base/log.h"
#include "cluster/coordinator.h"
#include "cluster/load.h"
#include "cluster/record.h"
#include "cluster/resume.h"
#include "cluster/setup.h"
#include "ksweep/ksweep.h"
#include "store/store.h"

typedef struct bench {
    uint64_t rows;
    int shards;
    uint64_t gap;
    double within;
    const char *in; /* a folder */
    bool keep, slow;
    char *output, *folder;
    ks_setup setup;
    ks_ops *ops;
    ks_record record;
} bench;

static double began;

static void start(void)
{
    began = ks_seconds();
}

static void report(bench *b, const char *what)
{
    double seconds = ks_seconds() - began;
    b->slow |= b->within > 0 && seconds > b->within;
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    printf("%-34s %9.3f s %9.1f MiB\n", what, seconds, (double)used.ru_maxrss / 1024);
    fflush(stdout);
}

static int open_job(bench *b, const char *path, ks_error *err)
{
    ks_job_source source = {.path = path};
    ks_job *job = ks_job_from_source(&source, err);
    if (!job || ks_setup_open(&b->setup, job, err) || ks_setup_check(&b->setup, err) ||
        ks_setup_digest_model(&b->setup, err) || !(b->ops = ks_ops_cpu(1, err)) ||
        ks_record_open(&b->record, &b->setup, b->ops, 8, err))
        return -1;
    b->output = ks_format("%s/bench_resume-%ld.h5", b->in, (long)getpid());
    b->folder = ks_format("%s.d", b->output);
    return 0;
}

/* Shard number k holds every shards-th of the rows. */
static int write_shard(const bench *b, int k, const float *latent, ks_error *err)
{
    enum { FLUSH_ROWS = 4096 };
    uint64_t samples = ks_job_samples(b->setup.job), written = 0;
    ks_shard *s = ks_shard_create(b->folder, &b->record.info, err);
    int status = s ? 0 : -1;
    for (uint64_t r = (uint64_t)k; r < b->rows && r * b->gap < samples && !status; r += (uint64_t)b->shards) {
        ks_row row = ks_record_row(&b->setup, r * b->gap, 20, false);
        status = ks_shard_append(s, &row, latent, NULL, err);
        if (!status && ++written % FLUSH_ROWS == 0)
            status = ks_shard_flush(s, err);
    }
    return s && ks_shard_close(s, status ? NULL : err) ? -1 : status;
}

static int write_all(const bench *b, ks_error *err)
{
    const int *shape = b->setup.shape;
    float *latent = ks_calloc((size_t)shape[1] * (size_t)shape[2] * (size_t)shape[3], sizeof *latent);
    int status = 0;
    for (int k = 0; k < b->shards && !status; k++)
        status = write_shard(b, k, latent, err);
    free(latent);
    return status;
}

static int resume_once(bench *b, ks_error *err)
{
    ks_resume resume;
    uint64_t points;
    start();
    if (ks_resume_open(&resume, &b->setup, b->output, err))
        return -1;
    report(b, "reading what is done");
    start();
    uint64_t *map = ks_resume_points(&resume, &points);
    ks_coordinator_options options = {
        .points = resume.samples / (uint64_t)b->setup.shape[0], .done = map, .workers = 64};
    ks_coordinator *c = ks_coordinator_new(&options, err);
    report(b, "the coordinator's start");
    start();
    uint64_t missing = ks_resume_missing(&resume, NULL);
    report(b, "counting what is missing");
    bool right = c && resume.done == b->rows && missing == resume.samples - b->rows && !resume.bad;
    ks_coordinator_free(c);
    free(map);
    ks_resume_close(&resume);
    return right ? 0 : ks_error_set(err, "%llu rows were written and not all of them found", (unsigned long long)b->rows);
}

static int status_once(bench *b, ks_error *err)
{
    ks_counts counts;
    start();
    char *text = ks_status_text(b->output, false, &counts, err);
    report(b, "ksweep status");
    free(text);
    return text ? 0 : -1;
}

static int run(bench *b, ks_error *err)
{
    start();
    if (write_all(b, err))
        return -1;
    report(b, "(writing the shards)");
    b->slow = false;
    sleep(3); /* what was changed just now is not kept */
    if (status_once(b, err))
        return -1;
    printf("first restart\n");
    if (resume_once(b, err))
        return -1;
    printf("second restart\n");
    return resume_once(b, err) || status_once(b, err) ? -1 : 0;
}

static void clean_up(bench *b)
{
    char *command = ks_format("rm -rf '%s'", b->folder);
    if (!b->keep && b->folder && system(command))
        fprintf(stderr, "bench_resume: %s stays\n", b->folder);
    free(command);
    ks_record_close(&b->record);
    ks_setup_close(&b->setup);
    if (b->ops)
        b->ops->free(b->ops);
    free(b->output);
    free(b->folder);
}

static int parse(bench *b, int argc, char **argv)
{
    static const struct option options[] = {{"rows", required_argument, NULL, 'r'},
                                            {"shards", required_argument, NULL, 's'},
                                            {"gap", required_argument, NULL, 'g'},
                                            {"folder", required_argument, NULL, 'f'},
                                            {"within", required_argument, NULL, 'w'},
                                            {"keep", no_argument, NULL, 'k'},
                                            {0}};
    for (int key; (key = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (key == 'r')
            b->rows = strtoull(optarg, NULL, 10);
        else if (key == 's')
            b->shards = atoi(optarg);
        else if (key == 'g')
            b->gap = strtoull(optarg, NULL, 10);
        else if (key == 'f')
            b->in = optarg;
        else if (key == 'w')
            b->within = atof(optarg);
        else if (key == 'k')
            b->keep = true;
        else
            return -1;
    }
    return optind + 1 == argc && b->rows > 0 && b->shards > 0 && b->gap > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    bench b = {.rows = 1000000, .shards = 8, .gap = 2, .in = "."};
    ks_error err = KS_ERROR_NONE;
    if (parse(&b, argc, argv)) {
        fprintf(stderr, "use: bench_resume JOB [--rows N] [--shards N] [--gap N] [--folder DIR] [--within SECONDS] [--keep]\n");
        return 2;
    }
    int status = open_job(&b, argv[optind], &err);
    if (!status) {
        printf("%llu of %llu samples done, latents of %d x %d x %d, in %d shards\n", (unsigned long long)b.rows,
               (unsigned long long)ks_job_samples(b.setup.job), b.setup.shape[1], b.setup.shape[2], b.setup.shape[3], b.shards);
        status = run(&b, &err);
    }
    clean_up(&b);
    if (status)
        fprintf(stderr, "bench_resume: %s\n", err.text);
    if (b.slow)
        fprintf(stderr, "bench_resume: a step took longer than %g s\n", b.within);
    return status || b.slow ? 1 : 0;
}
