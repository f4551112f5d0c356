/* A job file and the sweep that it means (docs/job-format.md; jobs/job.schema.json).
 *
 * A sweep is an index space, never a list: sample i is computed from i. Axis order, slowest
 * first: positive, negative, latent_image, denoise, scheduler, sampler_name, cfg, steps, seed,
 * and the place in the latent's batch fastest of all. Axes that "sweep" names in one group walk
 * together, at the place of the slowest of them: its leader. */
#ifndef KS_JOB_JOB_H
#define KS_JOB_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/hash.h"
#include "sampling/noise.h"

typedef enum ks_axis {
    KS_AXIS_POSITIVE, KS_AXIS_NEGATIVE, KS_AXIS_LATENT, KS_AXIS_DENOISE, KS_AXIS_SCHEDULER,
    KS_AXIS_SAMPLER, KS_AXIS_CFG, KS_AXIS_STEPS, KS_AXIS_SEED, KS_AXIS_BATCH, KS_AXES
} ks_axis;

/* The axis' name as the job file spells it ("positive", ..., "seed", "batch"). */
const char *ks_axis_name(ks_axis axis);

/* Where a mask comes from: a tensor of a safetensors or HDF5 file, or a channel of a PNG. */
typedef struct ks_mask_ref {
    char *file;   /* NULL: no mask */
    char *tensor; /* NULL: not named */
} ks_mask_ref;

/* Where a conditioning counts. */
typedef struct ks_region_ref {
    bool has_area, shares; /* area: in shares of the picture instead of pixels */
    double area[4];        /* height, width, y, x */
    ks_mask_ref mask;
    double mask_strength;
    bool bounds; /* the area is the mask's bounds */
} ks_region_ref;

/* One conditioning. Paths are as seen from the job file's folder, made usable from here. */
typedef struct ks_cond_ref {
    char *text;                     /* a prompt, or NULL */
    char *file, *cond, *pooled, *y; /* tensors of a safetensors file; pooled and y may be NULL */
    double strength, start_percent, end_percent;
    bool has_size; /* any of SDXL's sizes was given */
    int size[6];   /* height, width, crop_h, crop_w, target_height, target_width; -1: default */
    ks_region_ref *region; /* NULL: the whole picture */
} ks_cond_ref;

typedef struct ks_conditioning { /* one value of the positive or negative axis */
    int count;
    ks_cond_ref *item;
    char *label; /* the text (item[0].text itself when the value is nothing else), or the reference
                  * as compact JSON: what /positive holds */
} ks_conditioning;

typedef struct ks_latent_ref { /* one value of latent_image */
    int width, height;         /* pixels; 0 when from a file */
    char *file, *dataset;      /* .latent, or .h5 with data set and index */
    int64_t index;             /* -1: the whole data set is the batch */
    int batch_size;            /* 0: not given */
    int64_t *batch_index;      /* [batch_indices] or NULL */
    int batch_indices;
    ks_mask_ref noise_mask; /* 0 keeps the latent, 1 renders it anew */
    char *label; /* the reference as compact JSON: what /latent_image holds */
} ks_latent_ref;

enum { KS_PARTS = 64 };         /* ranks that split a layer, or a call's rows, at most */
enum { KS_MOST_BATCH_ROWS = 4096 };
enum { KS_LAST_STEP = 10000 }; /* of end_at_step: the schedule is not cut */

typedef enum ks_control { KS_FIXED, KS_INCREMENT, KS_DECREMENT, KS_RANDOMIZE } ks_control;

typedef struct ks_job {
    char *path;  /* of the job file */
    char *text;  /* the job as it was, with --set applied (compact JSON) */
    char *model; /* path */
    int positives, negatives, latents, denoises, schedulers, samplers, cfgs, steps_count;
    int behind[KS_AXES]; /* how far above an axis its leader stands; 0: it leads, or is alone */
    char axis_files[33]; /* digest in hex of the files that axes were read from; "": none */
    ks_conditioning *positive, *negative;
    ks_latent_ref *latent;
    double *denoise;
    int *scheduler; /* rows of the scheduler table */
    int *sampler;   /* rows of the sampler table */
    double *cfg;
    int *steps;
    uint64_t seed_start, seed_count;
    uint64_t seed_step; /* what increment adds and decrement takes away: 1, or a range's step */
    ks_control control;
    uint64_t *seed_list; /* [seed_count], or NULL: made from seed_start by control */
    char noise_device[24];
    ks_noise_device noise;
    char precision[8], prediction[8], device[8]; /* "auto", ... */
    bool zsnr, zsnr_given;
    int tensor, rows, batch_rows;
    char *output; /* path of out.h5 */
    bool latents_float16, images;
    bool add_noise, leftover_noise; /* KSampler (Advanced) */
    int start_at_step, end_at_step;
    char collect[8];
    int batch; /* latents of one KSampler call: from the job where it tells, else 1 until
                * ks_job_set_batch says what the latent's file holds */
} ks_job;

typedef struct ks_sample {
    uint64_t index;
    uint64_t seed;
    int steps;
    double cfg, denoise;
    int sampler, scheduler;         /* rows of the tables */
    int positive, negative, latent; /* values of the axes */
    int batch;                      /* place in the latent's batch */
} ks_sample;

/* sets: "PATH=VALUE" texts (cfg=[1,2], output.file=x.h5; VALUE is JSON, or a plain string when
 * it is not), applied one after another before anything is checked. PATH is keys and places,
 * a.b[2].c: members that are missing are made, list items are replaced, or appended at the place
 * behind the last one. Nothing is opened but the job file. err names the file, the JSON path,
 * what is wrong and what would be right. */
ks_job *ks_job_load(const char *path, const char *const *sets, int set_count, ks_error *err);
void ks_job_free(ks_job *job);

/* The same of a text, such as the job that an output file records: path is the job file that it
 * was, for messages and relative paths. */
ks_job *ks_job_parse(const char *path, const char *text, ks_error *err);

/* Says how many latents one KSampler call has, once the latents' files have been read. Fails when
 * batch_size or the length of a batch_index say otherwise, or when the sweep becomes too large. */
int ks_job_set_batch(ks_job *job, int batch, ks_error *err);

/* Values on an axis (the batch axis: job->batch) and samples in all; a product above 2^63-1 was
 * refused at load. */
uint64_t ks_job_axis_size(const ks_job *job, ks_axis axis);
/* The axis whose place this one shares: itself, unless it walks with a slower one. */
ks_axis ks_job_leader(const ks_job *job, ks_axis axis);
uint64_t ks_job_samples(const ks_job *job);

/* Sample of an index < ks_job_samples. */
void ks_job_sample(const ks_job *job, uint64_t index, ks_sample *out);

/* Seed number k of the seed axis. increment and decrement wrap modulo 2^64. randomize: splitmix64
 * (Steele et al. 2014) started at seed_start: k = 0 is seed_start itself, k > 0 its k-th output. */
uint64_t ks_job_seed(const ks_job *job, uint64_t k);

/* The place on every axis of a sample, and the sample's index from its places. Axes that walk
 * together have the same place; ks_job_index looks at the leaders' alone. */
void ks_job_coordinates(const ks_job *job, uint64_t index, uint64_t at[KS_AXES]);
uint64_t ks_job_index(const ks_job *job, const uint64_t at[KS_AXES]);

/* What decides a sample's bits and is not a widget: digests of contents, one for each value of the
 * axes. */
typedef struct ks_job_digests {
    ks_hash128 model;                      /* weights, config, tokenizer */
    const ks_hash128 *positive, *negative; /* texts, or tensors' bytes, with strength and range */
    const ks_hash128 *latent; /* shape, or the file's values, with batch and batch_index */
} ks_job_digests;

/* 128-bit key: equal for equal (model, conditionings, latent, batch place, seed, steps, cfg,
 * denoise, names of sampler and scheduler, prediction, zsnr, and noise_device where the sampler
 * draws noise). Not in it: precision, batch rows, layout (the file records them), and the place
 * in the sweep. -0.0 counts as 0.0; "cuda" and "cuda:132" are the same. prediction and zsnr
 * count as job holds them: put what the model resolved "auto" to there first, and a job that
 * spells it out has the same keys. */
ks_hash128 ks_job_key(const ks_job *job, const ks_job_digests *digests, const ks_sample *sample);

/* The same for many samples: what a sweep has in common is hashed once. A key then costs one
 * XXH3 of 136 bytes. The keyer only reads job and digests, which must outlive it; threads
 * may share it. */
typedef struct ks_job_keyer ks_job_keyer;
ks_job_keyer *ks_job_keyer_new(const ks_job *job, const ks_job_digests *digests);
void ks_job_keyer_free(ks_job_keyer *keyer);
ks_hash128 ks_job_keyer_key(const ks_job_keyer *keyer, const ks_sample *sample);

#endif
