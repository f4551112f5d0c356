#include "cluster/resume.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/stop.h"
#include "cluster/bitmap.h"
#include "cluster/guess.h"

typedef struct ks_stray {
    ks_hash128 key;
    int64_t index; /* in the present sweep; -1 until found */
    bool done;
} ks_stray;

static ks_hash128 key_at(const ks_resume *r, uint64_t index)
{
    ks_sample sample;
    ks_job_sample(r->setup->job, index, &sample);
    return ks_job_keyer_key(r->keyer, &sample);
}

static void make_maps(ks_resume *r)
{
    size_t words = (size_t)ks_bitmap_words(r->samples);
    if (r->sample_done)
        return;
    r->sample_done = ks_calloc(words, sizeof *r->sample_done);
    r->sample_tried = ks_calloc(words, sizeof *r->sample_tried);
}

static void mark(ks_resume *r, uint64_t index, bool done)
{
    make_maps(r);
    ks_bit_set(r->sample_tried, index);
    if (done && !ks_bit(r->sample_done, index)) {
        ks_bit_set(r->sample_done, index);
        r->done++;
    }
}

static void add_stray(ks_resume *r, const ks_row *row)
{
    if (r->strays == r->stray_room) {
        r->stray_room = r->stray_room ? 2 * r->stray_room : 1024;
        r->stray = ks_realloc(r->stray, r->stray_room, sizeof *r->stray);
    }
    r->stray[r->strays++] = (ks_stray){.key = row->key, .index = -1, .done = row->status == KS_DONE};
}

static bool has_key(const ks_resume *r, uint64_t index, const ks_hash128 *wanted)
{
    ks_hash128 key = index < r->samples ? key_at(r, index) : (ks_hash128){{0}};
    return index < r->samples && ks_hash_equal(&key, wanted);
}

/* The row's place where its index still has its key, or the sample of the same values does; else -1. */
static int64_t quick_index(const ks_resume *r, const ks_row *row)
{
    if (has_key(r, row->index, &row->key))
        return (int64_t)row->index;
    int64_t guess = ks_guess_index(r->setup->job, row);
    return guess >= 0 && has_key(r, (uint64_t)guess, &row->key) ? guess : -1;
}

/* Rows that are not found at once are looked for by key afterwards. */
static int see_row(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err)
{
    (void)shard, (void)place;
    ks_resume *r = self;
    if (ks_stop_check("looking at what is done", err))
        return -1;
    int64_t index = quick_index(r, row);
    if (index >= 0)
        mark(r, (uint64_t)index, row->status == KS_DONE);
    else
        add_stray(r, row);
    return 0;
}

static int by_key(const void *a, const void *b)
{
    return memcmp(((const ks_stray *)a)->key.byte, ((const ks_stray *)b)->key.byte, sizeof(ks_hash128));
}

static ks_stray *find_stray(const ks_resume *r, const ks_hash128 *key)
{
    ks_stray wanted = {.key = *key};
    return r->strays ? bsearch(&wanted, r->stray, (size_t)r->strays, sizeof wanted, by_key) : NULL;
}

/* Keeps one stray a key: the done one where there are several. */
static void unite_strays(ks_resume *r)
{
    uint64_t kept = 0;
    for (uint64_t i = 0; i < r->strays; i++) {
        if (kept && !by_key(&r->stray[kept - 1], &r->stray[i]))
            r->stray[kept - 1].done |= r->stray[i].done;
        else
            r->stray[kept++] = r->stray[i];
    }
    r->strays = kept;
}

static void place_strays(ks_resume *r)
{
    if (!r->strays)
        return;
    qsort(r->stray, (size_t)r->strays, sizeof *r->stray, by_key);
    unite_strays(r);
    uint64_t left = r->strays;
    for (uint64_t i = 0; i < r->samples && left; i++) {
        ks_hash128 key = key_at(r, i);
        ks_stray *s = find_stray(r, &key);
        if (!s || s->index >= 0)
            continue;
        left--;
        s->index = (int64_t)i;
        mark(r, i, s->done);
    }
    for (uint64_t i = 0; i < r->strays; i++)
        r->foreign += r->stray[i].index < 0 && r->stray[i].done;
}

/* All that decides which sample an index means. */
static ks_hash128 sweep_id(const ks_setup *setup)
{
    const ks_job *job = setup->job;
    const ks_job_digests *d = &setup->digests;
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, job->text);
    ks_hasher_add_text(h, job->prediction);
    ks_hasher_add_text(h, job->axis_files);
    ks_hasher_add_u64(h, job->zsnr);
    ks_hasher_add_u64(h, (uint64_t)job->batch);
    ks_hasher_add(h, &d->model, sizeof d->model);
    ks_hasher_add(h, d->positive, (size_t)job->positives * sizeof *d->positive);
    ks_hasher_add(h, d->negative, (size_t)job->negatives * sizeof *d->negative);
    ks_hasher_add(h, d->latent, (size_t)job->latents * sizeof *d->latent);
    return ks_hasher_end(h);
}

static uint64_t count_bits(const uint64_t *map, uint64_t words)
{
    uint64_t bits = 0;
    for (uint64_t i = 0; i < words; i++)
        bits += (uint64_t)__builtin_popcountll(map[i]);
    return bits;
}

/* Adds what was known of files that were not read again. */
static void add_known(ks_resume *r, const ks_rescan *known)
{
    uint64_t words = ks_bitmap_words(r->samples);
    if (!known->done)
        return;
    make_maps(r);
    for (uint64_t i = 0; i < words; i++) {
        r->sample_done[i] |= known->done[i];
        r->sample_tried[i] |= known->tried[i];
    }
    r->done = count_bits(r->sample_done, words);
}

/* check: latents are held against their digests, and what is found out is kept. */
static int look(ks_resume *r, const ks_setup *setup, const char *output, bool check, ks_error *err)
{
    *r = (ks_resume){.setup = setup, .samples = ks_job_samples(setup->job)};
    r->keyer = ks_job_keyer_new(setup->job, &setup->digests);
    ks_scan_counts counts = {0};
    ks_rescan known = {.samples = r->samples, .sweep = sweep_id(setup)};
    int status = check ? ks_store_rescan(output, &known, see_row, r, &counts, err)
                       : ks_store_glance(output, &known, false, see_row, r, &counts, err);
    if (!status) {
        add_known(r, &known);
        r->bad = counts.bad;
        if (counts.bad)
            ks_log_warn("%s: %llu rows fail their digest and are rendered again", output, (unsigned long long)counts.bad);
        place_strays(r);
    }
    bool in_place = check && !status && !r->strays; /* else collecting asks for the strays' places too */
    ks_store_rescan_end(&known, in_place ? r->sample_done : NULL, in_place ? r->sample_tried : NULL);
    return status;
}

int ks_resume_open(ks_resume *r, const ks_setup *setup, const char *output, ks_error *err)
{
    return look(r, setup, output, true, err);
}

int ks_resume_glance(ks_resume *r, const ks_setup *setup, const char *output, ks_error *err)
{
    return look(r, setup, output, false, err);
}

void ks_resume_close(ks_resume *r)
{
    ks_job_keyer_free(r->keyer);
    free(r->sample_done);
    free(r->sample_tried);
    free(r->stray);
    *r = (ks_resume){0};
}

int64_t ks_resume_index(void *resume, const ks_row *row)
{
    const ks_resume *r = resume;
    int64_t index = quick_index(r, row);
    if (index >= 0)
        return index;
    const ks_stray *s = find_stray(r, &row->key);
    return s ? s->index : -1;
}

uint64_t *ks_resume_points(const ks_resume *r, uint64_t *points_done)
{
    *points_done = 0;
    if (!r->sample_done)
        return NULL;
    uint64_t batch = (uint64_t)r->setup->shape[0], points = r->samples / batch;
    uint64_t *map = ks_calloc((size_t)ks_bitmap_words(points), sizeof *map);
    for (uint64_t p = 0; p < points; p++) {
        bool all = true;
        for (uint64_t b = 0; b < batch && all; b++)
            all = ks_bit(r->sample_done, p * batch + b);
        if (all) {
            ks_bit_set(map, p);
            ++*points_done;
        }
    }
    return map;
}

uint64_t ks_resume_missing(const ks_resume *r, const uint64_t *wanted)
{
    uint64_t batch = (uint64_t)r->setup->shape[0], missing = 0;
    for (uint64_t i = 0; i < r->samples; i++) {
        bool in = !wanted || ks_bit(wanted, i / batch);
        missing += in && !(r->sample_tried && ks_bit(r->sample_tried, i));
    }
    return missing;
}
