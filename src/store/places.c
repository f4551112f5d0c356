#include "store/places.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* source + 1 in the top 20 bits, row in the next 42; then bits for done and for digest tested. */
enum { SOURCE_SHIFT = 44, ROW_SHIFT = 2 };
static const uint64_t DONE = 2, TESTED = 1, ROW_MASK = ((uint64_t)1 << 42) - 1;

uint64_t ks_place_code(int source, uint64_t row)
{
    return ((uint64_t)source + 1) << SOURCE_SHIFT | (row & ROW_MASK) << ROW_SHIFT;
}

int ks_place_source(uint64_t code)
{
    return (int)(code >> SOURCE_SHIFT) - 1;
}

uint64_t ks_place_row(uint64_t code)
{
    return code >> ROW_SHIFT & ROW_MASK;
}

typedef struct builder {
    ks_places *places;
    ks_sources *sources;
    const ks_store_info *info;
    const ks_hash128 *sweep;
    int64_t (*index_of)(void *self, const ks_row *row);
    void *self;
} builder;

/* Whether the row that a code names has the latent that its digest tells. */
static bool latent_good(ks_sources *s, uint64_t code)
{
    ks_table_row t;
    ks_source *source = ks_sources_use(s, ks_place_source(code), NULL);
    return source && !ks_source_table(source, ks_place_row(code), 1, &t, NULL) &&
           ks_source_latent_good(source, ks_place_row(code), &t);
}

/* A second row of a sample: which of the two stays. */
static uint64_t better(ks_sources *s, uint64_t old, uint64_t new)
{
    if (!(new &DONE))
        return old;
    if (!(old & DONE))
        return new;
    return old & TESTED || latent_good(s, old) ? old | TESTED : new;
}

static int64_t index_of_row(const builder *b, const ks_source *source, const ks_table_row *t)
{
    ks_row row;
    if (!ks_source_fits(source, b->info))
        return -1;
    if (!b->index_of)
        return ks_hash_equal(&source->sweep, b->sweep) ? (int64_t)t->index : -1;
    ks_table_unpack(&row, t, b->info);
    return b->index_of(b->self, &row);
}

static int see_row(void *self, int source, uint64_t place, const ks_table_row *t, ks_error *err)
{
    const builder *b = self;
    ks_places *p = b->places;
    ks_source *from = &b->sources->item[source];
    int64_t index = index_of_row(b, from, t);
    (void)err;
    if (index < 0 || (uint64_t)index >= p->samples) {
        from->left_out += t->status == KS_DONE;
        return 0;
    }
    uint64_t code = ks_place_code(source, place) | (t->status == KS_DONE ? DONE : 0),
             *at = &p->at[index];
    p->found += !*at;
    *at = *at ? better(b->sources, *at, code) : code;
    return 0;
}

int ks_places_build(ks_places *p, ks_sources *s, const ks_store_info *info, const ks_hash128 *sweep,
                    int64_t (*index_of)(void *self, const ks_row *row), void *self, ks_error *err)
{
    *p = (ks_places){.samples = info->samples};
    if (s->count >= KS_PLACES_SOURCES - 1)
        return ks_error_set(err, "%s: %d shards are more than %d", s->dir, s->count,
                            KS_PLACES_SOURCES - 2);
    p->at = calloc(info->samples ? info->samples : 1, sizeof *p->at);
    if (!p->at)
        return ks_error_set(err, "%s: no memory to place %llu samples", s->out,
                            (unsigned long long)info->samples);
    builder b = {p, s, info, sweep, index_of, self};
    if (!ks_sources_walk(s, -1, see_row, &b, &p->bad, err))
        return 0;
    ks_places_free(p);
    return -1;
}

void ks_places_free(ks_places *p)
{
    free(p->at);
    *p = (ks_places){0};
}

static int by_code(const void *a, const void *b)
{
    uint64_t x = ((const ks_pick *)a)->code, y = ((const ks_pick *)b)->code;
    return (x > y) - (x < y);
}

size_t ks_picks_make(const uint64_t *at, size_t count, ks_pick *pick)
{
    size_t n = 0;
    for (size_t i = 0; i < count; i++)
        if (at[i])
            pick[n++] = (ks_pick){at[i], i};
    qsort(pick, n, sizeof *pick, by_code);
    return n;
}

size_t ks_picks_run(const ks_pick *pick, size_t count, size_t from)
{
    size_t n = 1;
    while (from + n < count &&
           ks_place_source(pick[from + n].code) == ks_place_source(pick[from].code) &&
           ks_place_row(pick[from + n].code) == ks_place_row(pick[from].code) + n)
        n++;
    return n;
}
