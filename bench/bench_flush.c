/* What it costs to write rows to a shard, to flush them (safe from the death of the process) and to bring them to disk (safe from
 * the machine's): milliseconds each, median and worst, for rows of three sizes.
 *
 * bench_flush FOLDER [rows of a flush, 32 by default] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "store/store.h"

enum { TIMES = 30 };

static const struct {
    const char *what;
    int side; /* of the latent */
    bool images;
} cases[] = {{"512 x 512, latents alone", 64, false}, {"1024 x 1024, latents alone", 128, false}, {"512 x 512, with images", 64, true}};

static const char *const names[] = {"euler"};

static ks_store_info info_of(int side, bool images)
{
    return (ks_store_info){.samples = 1 << 20, .channels = 4, .height = side, .width = side, .images = images, .job = "{}",
                           .job_path = "job.json", .model = "m", .model_sha256 = "0", .version = "0", .backend = "cpu",
                           .device = "a CPU", .precision = "fp32", .noise_device = "cpu", .parallel = "{}", .batch_rows = 1,
                           .samplers = 1, .schedulers = 1, .sampler_names = names, .scheduler_names = names};
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void column(double *seconds)
{
    qsort(seconds, TIMES, sizeof *seconds, by_value);
    printf(" %9.2f %9.2f", 1e3 * seconds[TIMES / 2], 1e3 * seconds[TIMES - 1]);
}

static int append(ks_shard *s, uint64_t *index, int rows, const float *latent, const uint8_t *rgb, ks_error *err)
{
    for (int i = 0; i < rows; i++) {
        ks_row row = {.index = (*index)++, .status = KS_DONE};
        if (ks_shard_append(s, &row, latent, rgb, err))
            return -1;
    }
    return 0;
}

/* One line of the table. */
static int measure(const char *folder, int k, int rows, ks_error *err)
{
    size_t side = (size_t)cases[k].side;
    ks_store_info info = info_of(cases[k].side, cases[k].images);
    float *latent = ks_calloc(4 * side * side, sizeof *latent);
    uint8_t *rgb = cases[k].images ? ks_calloc(64 * 3 * side, side) : NULL;
    ks_shard *s = ks_shard_create(folder, &info, err);
    double writing[TIMES], flushing[TIMES], syncing[TIMES];
    uint64_t index = 0;
    int rc = s ? 0 : -1;
    for (int i = 0; i < TIMES && !rc; i++) {
        double start = ks_seconds();
        rc = append(s, &index, rows, latent, rgb, err);
        writing[i] = ks_seconds() - start;
        rc = rc ? rc : ks_shard_flush(s, err);
        flushing[i] = ks_seconds() - start - writing[i];
        rc = rc ? rc : ks_shard_sync(s, err);
        syncing[i] = ks_seconds() - start - writing[i] - flushing[i];
    }
    if (!rc) {
        double megabytes = 1e-6 * rows * (double)(side * side) * (16 + (rgb ? 192 : 0));
        printf("%-28s %8.1f", cases[k].what, megabytes);
        column(writing);
        column(flushing);
        column(syncing);
        printf("\n");
    }
    if (s && ks_shard_close(s, rc ? NULL : err))
        rc = -1;
    free(latent);
    free(rgb);
    return rc;
}

int main(int argc, char **argv)
{
    int rows = argc > 2 ? atoi(argv[2]) : 32;
    if (argc < 2 || rows < 1) {
        fprintf(stderr, "usage: bench_flush FOLDER [rows of a flush]\n");
        return 2;
    }
    char *folder = ks_format("%s/bench-flush-%ld", argv[1], (long)getpid());
    ks_error err = KS_ERROR_NONE;
    printf("%d rows a flush, ms: median and worst of %d\n%-28s %8s %19s %19s %19s\n", rows, TIMES, "rows of", "MB", "append",
           "flush", "sync");
    int rc = 0;
    for (size_t k = 0; k < sizeof cases / sizeof *cases && !rc; k++)
        rc = measure(folder, (int)k, rows, &err);
    for (int i = 0; i < (int)(sizeof cases / sizeof *cases); i++) {
        char *path = ks_format("%s/shard-%04d.h5", folder, i);
        unlink(path);
        free(path);
    }
    rmdir(folder);
    free(folder);
    if (rc)
        fprintf(stderr, "%s\n", err.text);
    return rc ? 1 : 0;
}
