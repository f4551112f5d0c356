#include "cluster/resume.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "cluster/bitmap.h"

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

static void mark(ks_resume *r, uint64_t index, bool done)
{
    uint64_t words = ks_bitmap_words(r->samples);
    if (!r->sample_done) {
        r->sample_done = ks_calloc((size_t)words, sizeof *r->sample_done);
        r->sample_tried = ks_calloc((size_t)words, sizeof *r->sample_tried);
    }
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

/* A row whose index still has its key is in place; all others are looked for by key afterwards. */
static int see_row(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err)
{
    (void)shard, (void)place, (void)err;
    ks_resume *r = self;
    if (row->index < r->samples) {
        ks_hash128 key = key_at(r, row->index);
        if (ks_hash_equal(&key, &row->key)) {
            mark(r, row->index, row->status == KS_DONE);
            return 0;
        }
    }
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

int ks_resume_open(ks_resume *r, const ks_setup *setup, const char *output, ks_error *err)
{
    *r = (ks_resume){.setup = setup, .samples = ks_job_samples(setup->job)};
    r->keyer = ks_job_keyer_new(setup->job, &setup->digests);
    ks_scan_counts counts = {0};
    if (ks_store_scan(output, true, see_row, r, &counts, err))
        return -1;
    r->bad = counts.bad;
    if (counts.bad)
        ks_log_warn("%s: %llu rows fail their digest and are rendered again", output, (unsigned long long)counts.bad);
    place_strays(r);
    return 0;
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
    if (row->index < r->samples) {
        ks_hash128 key = key_at(r, row->index);
        if (ks_hash_equal(&key, &row->key))
            return (int64_t)row->index;
    }
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
