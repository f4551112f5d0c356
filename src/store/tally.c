/* How many samples of an output are done. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "store/info.h"
#include "store/source.h"
#include "store/store.h"

static const uint64_t MOST_SAMPLES = (uint64_t)1 << 38; /* that are counted with a byte each */

/* What is known of a sample, or of a key; the greater one counts. */
enum { NOTHING, FAILED, DONE };

/* A row that was written under another state of the job: its key alone tells which sample it is. */
typedef struct stray {
    ks_hash128 key;
    uint8_t state;
} stray;

typedef struct key_list {
    stray *item;
    size_t count, room;
} key_list;

typedef struct counter {
    ks_sources *sources;
    ks_tally *tally;
    ks_hash128 sweep; /* of the newest file */
    bool check;
    uint8_t *state; /* [samples] */
    key_list strays;
} counter;

static void add_key(key_list *list, const uint8_t key[16], uint8_t state)
{
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 1024;
        list->item = ks_realloc(list->item, list->room, sizeof *list->item);
    }
    stray *s = &list->item[list->count++];
    memcpy(s->key.byte, key, sizeof s->key.byte);
    s->state = state;
}

static int see_row(void *self, int source, uint64_t place, const ks_table_row *t, ks_error *err)
{
    counter *c = self;
    ks_source *s = ks_sources_use(c->sources, source, err);
    if (!s)
        return -1;
    if (c->check && !ks_source_latent_good(s, place, t)) {
        c->tally->bad++;
        return 0;
    }
    uint8_t state = t->status == KS_DONE ? DONE : FAILED;
    if (!ks_hash_equal(&s->sweep, &c->sweep) || t->index >= c->tally->info->samples)
        add_key(&c->strays, t->key, state);
    else if (c->state[t->index] < state)
        c->state[t->index] = state;
    return 0;
}

/* The keys of rows of the newest sweep, which strays may have too. */
static int see_key(void *self, int source, uint64_t place, const ks_table_row *t, ks_error *err)
{
    counter *c = self;
    const ks_source *s = &c->sources->item[source];
    (void)place, (void)err;
    if (ks_hash_equal(&s->sweep, &c->sweep) && t->index < c->tally->info->samples)
        add_key(&c->strays, t->key, NOTHING);
    return 0;
}

static int by_key(const void *a, const void *b)
{
    return memcmp(((const stray *)a)->key.byte, ((const stray *)b)->key.byte, sizeof(ks_hash128));
}

/* Strays count once a key, and not where the newest sweep has a row of that key. */
static int count_strays(counter *c, ks_error *err)
{
    uint64_t bad = 0;
    key_list *l = &c->strays;
    if (!l->count)
        return 0;
    if (ks_sources_walk(c->sources, -1, see_key, c, &bad, err))
        return -1;
    qsort(l->item, l->count, sizeof *l->item, by_key);
    for (size_t from = 0, n; from < l->count; from += n) {
        uint8_t best = NOTHING;
        bool known = false;
        for (n = 0; from + n < l->count && !by_key(&l->item[from], &l->item[from + n]); n++) {
            best = l->item[from + n].state > best ? l->item[from + n].state : best;
            known |= l->item[from + n].state == NOTHING;
        }
        c->tally->done += !known && best == DONE;
        c->tally->failed += !known && best == FAILED;
    }
    return 0;
}

static int count_all(counter *c, ks_error *err)
{
    uint64_t samples = c->tally->info->samples;
    if (ks_sources_walk(c->sources, -1, see_row, c, &c->tally->bad, err))
        return -1;
    for (uint64_t i = 0; i < samples; i++) {
        c->tally->done += c->state[i] == DONE;
        c->tally->failed += c->state[i] == FAILED;
    }
    return count_strays(c, err);
}

/* OUT alone, when it is the newest file: what its table says, virtual or not. */
static int count_out(counter *c, ks_source *s, ks_error *err)
{
    enum { BLOCK = 1024 };
    ks_table_row *t = ks_calloc(BLOCK, sizeof *t);
    int status = 0;
    for (uint64_t first = 0, n; first < s->rows && !status; first += n) {
        n = s->rows - first < BLOCK ? s->rows - first : BLOCK;
        status = ks_source_table(s, first, n, t, err);
        for (uint64_t k = 0; k < n && !status; k++) {
            bool done = t[k].status == KS_DONE, good = ks_source_row_whole(s, &t[k]);
            good = good && (!done || !c->check || ks_source_latent_good(s, first + k, &t[k]));
            c->tally->bad += !good;
            c->tally->done += good && done;
            c->tally->failed += good && t[k].status == KS_FAILED;
        }
    }
    free(t);
    return status;
}

static int glance_row(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err)
{
    counter *c = self;
    uint8_t state = row->status == KS_DONE ? DONE : FAILED;
    (void)shard, (void)place, (void)err;
    if (row->index < c->tally->info->samples && c->state[row->index] < state)
        c->state[row->index] = state;
    return 0;
}

static bool bit(const uint64_t *map, uint64_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

/* Files of one sweep, without a look at latents: what a restart has kept stands for the rows that it is of. */
static int glance(counter *c, ks_error *err)
{
    uint64_t samples = c->tally->info->samples;
    ks_rescan known = {.samples = samples};
    ks_scan_counts counts;
    int status = ks_store_glance(c->sources->out, &known, true, glance_row, c, &counts, err);
    for (uint64_t i = 0; i < samples && !status; i++) {
        bool done = c->state[i] == DONE || (known.done && bit(known.done, i));
        c->tally->done += done;
        c->tally->failed += !done && (c->state[i] == FAILED || (known.tried && bit(known.tried, i)));
    }
    c->tally->bad = counts.bad;
    ks_store_rescan_end(&known, NULL, NULL);
    return status;
}

static bool is_one_sweep(const counter *c)
{
    bool one = true;
    for (int i = 0; i < c->sources->count; i++)
        if (c->sources->item[i].usable && !c->sources->item[i].is_virtual)
            one &= ks_hash_equal(&c->sources->item[i].sweep, &c->sweep);
    return one;
}

/* Bytes of all latents. */
static double latent_bytes(const ks_sources *s)
{
    double bytes = 0;
    for (int i = 0; i < s->count; i++)
        if (s->item[i].usable && !s->item[i].is_virtual)
            bytes += (double)s->item[i].rows * (double)ks_source_latent_bytes(&s->item[i]);
    return bytes;
}

static int count(counter *c, double check_bytes, ks_error *err)
{
    ks_tally *t = c->tally;
    int newest = ks_sources_newest(c->sources);
    t->unreadable = c->sources->unreadable;
    for (int i = 0; i < c->sources->count; i++)
        t->shards += c->sources->item[i].usable && c->sources->item[i].number >= 0;
    if (newest < 0)
        return 0;
    ks_source *s = ks_sources_use(c->sources, newest, err);
    t->info = s ? ks_info_read(s->file, s->path, NULL, err) : NULL;
    if (!t->info)
        return -1;
    c->sweep = s->sweep;
    t->latent_bytes = latent_bytes(c->sources);
    t->checked = c->check = t->latent_bytes <= check_bytes;
    t->has_out = ks_sources_out(c->sources) >= 0;
    t->collected = s->number < 0;
    c->state = t->info->samples < MOST_SAMPLES ? calloc((size_t)t->info->samples + 1, 1) : NULL;
    if (!c->state)
        return ks_error_set(err, "%s: no memory to count %llu samples", c->sources->out,
                            (unsigned long long)t->info->samples);
    if (!c->check && is_one_sweep(c))
        return glance(c, err);
    return t->collected ? count_out(c, s, err) : count_all(c, err);
}

int ks_sources_tally(ks_sources *s, double check_bytes, ks_tally *tally, ks_error *err)
{
    *tally = (ks_tally){0};
    counter c = {.tally = tally, .sources = s};
    int status = count(&c, check_bytes, err);
    free(c.state);
    free(c.strays.item);
    if (status)
        ks_tally_free(tally);
    return status;
}

int ks_store_tally(const char *out, double check_bytes, ks_tally *tally, ks_error *err)
{
    *tally = (ks_tally){0};
    ks_sources *s = ks_sources_list(out, err);
    int status = s ? ks_sources_tally(s, check_bytes, tally, err) : -1;
    ks_sources_free(s);
    return status;
}

void ks_tally_free(ks_tally *tally)
{
    ks_store_info_free(tally->info);
    *tally = (ks_tally){0};
}
