/* The output: shards while a run goes on, one file when it has ended (docs/output-format.md).
 *
 * A replica appends rows to OUT.d/shard-NNNN.h5 (HDF5, SWMR mode, no filter; a digest with every
 * row). What is in the shards, and passes its digest, is done: nothing else is trusted at a
 * restart. Collecting copies them in sweep order into OUT ("merge") or makes OUT a virtual data set
 * over them ("virtual"). */
#ifndef KS_STORE_STORE_H
#define KS_STORE_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"

typedef enum ks_status { KS_MISSING = 0, KS_DONE = 1, KS_FAILED = 2 } ks_status;

/* One row of /samples. */
typedef struct ks_row {
    uint64_t index, seed;
    uint32_t steps;
    double cfg, denoise;
    int32_t sampler, scheduler; /* places in ks_store_info's name lists; strings in the file */
    uint32_t positive, negative, latent_image, batch;
    uint32_t nfe;
    uint8_t status;         /* ks_status */
    ks_hash128 key, digest; /* digest: of the latent's bytes as stored */
} ks_row;

/* What is the same for every row, recorded as attributes of every shard and of the collected file.
 * Texts are copied. job: the job file's text; job_path: where it stood (relative paths in it are
 * relative to its folder). */
typedef struct ks_store_info {
    uint64_t samples;            /* N of the sweep */
    int channels, height, width; /* of a latent */
    bool float16, images;
    char *job, *job_path, *model, *model_sha256, *version, *backend, *device, *precision,
        *noise_device, *parallel;
    char *axis_files; /* digest of the files that axes of the job were read from; "" */
    int batch_rows;
    int samplers, schedulers; /* name tables that ks_row refers to */
    const char *const *sampler_names, *const *scheduler_names;
    int positives, negatives, latents;
    char **positive, **negative, **latent_image; /* labels */
    /* A sample's place on the axis positive (negative, latent_image) is index / stride % values. 0:
     * the three are the slowest axes of a full grid. Only collecting asks. */
    uint64_t label_stride[3];
    double start_time, end_time;                 /* Unix seconds; end_time 0 while running */
} ks_store_info;

/* --- one replica's shard --- */
typedef struct ks_shard ks_shard;

/* Makes a new shard in DIR (made when absent) under the next free number, exclusively. info is only
 * read during the call. */
ks_shard *ks_shard_create(const char *dir, const ks_store_info *info, ks_error *err);
/* latent: [C,H,W] float32 (converted when float16); image: [8H,8W,3] or NULL. A failed row has
 * latent NULL (zeros are stored). The row's digest is set by this call. The row counts as written
 * after the next ks_shard_flush. After a failed write (full disk) every call gives that first
 * error; the rows flushed before it stay readable. */
int ks_shard_append(ks_shard *s, ks_row *row, const float *latent, const uint8_t *image,
                    ks_error *err);
int ks_shard_flush(ks_shard *s, ks_error *err);
/* Flushes, and brings all of it to disk: what is flushed survives the process, what is synced the
 * machine. */
int ks_shard_sync(ks_shard *s, ks_error *err);
int ks_shard_close(ks_shard *s, ks_error *err); /* frees s in every case */

/* --- all files of an output --- */

/* The folder of OUT's shards, "OUT.d"; free() it. */
char *ks_store_dir(const char *out);

/* Whether there are shards in it. */
bool ks_store_has_shards(const char *out);

/* Opens each shard read-only (SWMR), also while a run writes it or after a kill, and a merged OUT
 * (shard -1). check: read every latent and test its digest; bad rows are skipped and counted. Calls
 * see() for every good row with status done or failed. An OUT that is not ksweep's is an error. The
 * row's sampler and scheduler are places in the lists of ks_store_info_read, -1 for names that it
 * has not. */
typedef struct ks_scan_counts {
    int shards, unreadable; /* shards that could not be opened: named in the log */
    uint64_t rows, bad;
} ks_scan_counts;
int ks_store_scan(const char *out, bool check,
                  int (*see)(void *self, const ks_row *row, int shard, uint64_t place,
                             ks_error *err),
                  void *self, ks_scan_counts *counts, ks_error *err);

/* How far an output is: of the sweep of its newest file. Rows that other states of the job have left
 * count by their keys. */
typedef struct ks_tally {
    ks_store_info *info; /* NULL: there is no file that can be read */
    uint64_t done, failed, bad; /* samples; rows that are damaged */
    int shards, unreadable;
    bool has_out, collected; /* there is an OUT; nothing is newer than it */
    bool checked;            /* the latents were held against their digests */
    double latent_bytes;
} ks_tally;
/* Latents of up to so many bytes are read for their digests without being asked to: about a second. */
#define KS_TALLY_BYTES 0x1p30
/* check_bytes: digests are tested when all latents together are not larger than this. */
int ks_store_tally(const char *out, double check_bytes, ks_tally *tally, ks_error *err);
void ks_tally_free(ks_tally *tally);

/* The same with check, for a restart: files that were found good before, and are still the same, are not read again
 * (store/checked.h), and what is found out is kept for the next time. */
typedef struct ks_rescan {
    uint64_t samples; /* of the sweep, and what decides their order: equal where an index means the same sample */
    ks_hash128 sweep;
    const uint64_t *done, *tried; /* see was not called for the samples of these bitmaps (NULL: for none); r's own */
    struct ks_rescan_state *state;
} ks_rescan;
int ks_store_rescan(const char *out, ks_rescan *r,
                    int (*see)(void *self, const ks_row *row, int shard, uint64_t place,
                               ks_error *err),
                    void *self, ks_scan_counts *counts, ks_error *err);

/* After either of them, in every case: frees what belongs to it. done, tried: bitmaps of everything that the output holds, when each row
 * is of the sample that its index names, to be kept for the next time; else NULL. */
void ks_store_rescan_end(ks_rescan *r, const uint64_t *done, const uint64_t *tried);

/* As ks_store_scan without check, for ksweep status and plan: what a restart has kept of the sweep stands for the rows of the files
 * that it was kept of. any_order: of a sweep of so many samples, in whatever order. Nothing is kept for the next time. */
int ks_store_glance(const char *out, ks_rescan *r, bool any_order,
                    int (*see)(void *self, const ks_row *row, int shard, uint64_t place,
                               ks_error *err),
                    void *self, ks_scan_counts *counts, ks_error *err);

/* The info of an existing output (its file, else its first readable shard): 1 found, 0 there is
 * none, -1 error. Free with ks_store_info_free. */
int ks_store_info_read(const char *out, ks_store_info **info, ks_error *err);
void ks_store_info_free(ks_store_info *info);

/* Writes OUT from the shards and an OUT that is there (to a temporary name, then renamed). Rows of
 * the sweep that no file has get status missing. mode: "merge" (shards are removed after OUT is
 * safe on disk), "virtual", or "auto" (merge up to 8 GiB). index_of: which index of the present
 * sweep a key has, -1 none (a row of an earlier, different job: its file is kept in OUT.d); NULL:
 * the recorded indices, of files with the same job text and model. Nobody may be writing. Returns 1
 * when rows were found to be damaged on the way: their samples are missing in OUT. */
int ks_store_collect(const char *out, const ks_store_info *info, const char *mode,
                     int64_t (*index_of)(void *self, const ks_row *row), void *self, ks_error *err);

/* About what files take: a shard of so many rows, and a collected OUT, whose table has every sample of the sweep, with so many done.
 * A virtual one has no rows of its own. */
double ks_store_shard_bytes(const ks_store_info *info, double rows);
double ks_store_out_bytes(const ks_store_info *info, double done, bool is_virtual);

/* --- reading an output, collected or not --- */

/* OUT alone, row by row as it is, when no shard is newer. Else all files that have the job text and
 * the model of the newest, as one: row r is sample r. */
typedef struct ks_output ks_output;
ks_output *ks_output_open(const char *out, ks_error *err);
void ks_output_close(ks_output *o);
const ks_store_info *ks_output_info(const ks_output *o);
uint64_t ks_output_rows(const ks_output *o);
int ks_output_row(ks_output *o, uint64_t r, ks_row *row, ks_error *err);
/* The row of a sample of the sweep (/row_of_index). */
int ks_output_find(ks_output *o, uint64_t index, uint64_t *r, ks_error *err);
int ks_output_latent(ks_output *o, uint64_t r, float *latent, ks_error *err);
int ks_output_image(ks_output *o, uint64_t r, uint8_t *rgb, ks_error *err);
/* The digest that a row has when this latent is stored. */
ks_hash128 ks_latent_digest(const float *latent, size_t count, bool float16);

/* Tests every row's fields, the latents and pictures of done ones, and /row_of_index; *checked counts
 * done rows and bad ones, *bad those that fail, each of which is logged. */
int ks_output_verify(ks_output *o, uint64_t *checked, uint64_t *bad, ks_error *err);

/* ks_store_tally of the files that are open here. */
int ks_output_tally(ks_output *o, double check_bytes, ks_tally *tally, ks_error *err);

#endif
