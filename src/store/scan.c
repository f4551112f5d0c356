/* What an output's files hold: every row, and the info of the run. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "store/checked.h"
#include "store/h5.h"
#include "store/info.h"
#include "store/shard.h"
#include "store/source.h"
#include "store/store.h"

char *ks_store_dir(const char *out)
{
    return ks_format("%s.d", out);
}

bool ks_store_has_shards(const char *out)
{
    char *dir = ks_store_dir(out);
    bool has = ks_shard_next(dir) > 0;
    free(dir);
    return has;
}

enum { BLOCK_BYTES = 4 << 20, SETTLED_NANOSECONDS = 2000000000 };

/* Latents [first, first + count) of one source, read together. */
typedef struct latents {
    int source; /* -1: nothing was read */
    uint64_t first, count;
    uint8_t *bytes;
} latents;

/* What belongs to one ks_rescan. */
typedef struct ks_rescan_state {
    char *dir;
    int fd;      /* ks_checked_begin's */
    int64_t now; /* by the file system's clock */
    ks_checked known, found;
    bool mapped;   /* the known bitmaps hold */
    bool complete; /* every file is among those found */
    bool has_shards;
    bool walked;   /* to the end: what was found is all */
} ks_rescan_state;

typedef struct scanner {
    ks_sources *sources;
    const ks_store_info *info;
    bool check;
    int (*see)(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err);
    void *self;
    ks_scan_counts *counts;
    latents latents;
} scanner;

/* Has the block of latents in memory that begins at place; false when they cannot be read together. */
static bool read_block(latents *l, ks_source *from, int source, uint64_t place)
{
    size_t item = ks_source_latent_bytes(from);
    uint64_t most = BLOCK_BYTES / item, left = from->rows - place;
    if (most < 2)
        return false;
    l->bytes = ks_realloc(l->bytes, BLOCK_BYTES, 1);
    l->source = -1;
    l->first = place;
    l->count = left < most ? left : most;
    if (ks_source_latents(from, place, l->count, l->bytes, NULL))
        return false;
    l->source = source;
    return true;
}

/* ks_source_latent_good, reading ahead. */
static bool latent_good(scanner *s, int source, uint64_t place, const ks_table_row *t)
{
    latents *l = &s->latents;
    ks_source *from = ks_sources_use(s->sources, source, NULL);
    if (!from)
        return false;
    bool held = l->source == source && place >= l->first && place - l->first < l->count;
    if (!held && !read_block(l, from, source, place))
        return ks_source_latent_good(from, place, t);
    size_t item = ks_source_latent_bytes(from);
    ks_hash128 digest = ks_hash(l->bytes + (place - l->first) * item, item);
    return !memcmp(digest.byte, t->digest, sizeof t->digest);
}

static int see_row(void *self, int source, uint64_t place, const ks_table_row *t, ks_error *err)
{
    scanner *s = self;
    ks_row row;
    if (s->check && !latent_good(s, source, place, t)) {
        s->counts->bad++;
        return 0;
    }
    s->counts->rows++;
    ks_table_unpack(&row, t, s->info);
    return s->see ? s->see(s->self, &row, s->sources->item[source].number, place, err) : 0;
}

/* The info of the first usable source: OUT's where there is one. *info NULL when there is none. */
static int first_info(ks_sources *s, ks_store_info **info, ks_error *err)
{
    *info = NULL;
    for (int i = 0; i < s->count; i++) {
        if (!s->item[i].usable)
            continue;
        ks_source *source = ks_sources_use(s, i, err);
        *info = source ? ks_info_read(source->file, source->path, NULL, err) : NULL;
        return *info ? 0 : -1;
    }
    return 0;
}

static bool is_walked(const ks_source *s)
{
    return s->usable && !s->is_virtual;
}

/* Whether every file that the known bitmaps tell of is still there and the same. */
static bool maps_hold(const ks_checked *known, const ks_sources *sources)
{
    uint64_t there = 0, wanted = 0;
    for (uint64_t i = 0; i < known->files; i++)
        wanted += known->file[i].mapped;
    for (int i = 0; i < sources->count; i++) {
        const ks_source *s = &sources->item[i];
        const ks_checked_file *f = is_walked(s) ? ks_checked_find(known, s->number, &s->mark) : NULL;
        there += f && f->mapped;
    }
    return there == wanted;
}

static void note_found(ks_rescan_state *state, const ks_source *s, bool mapped)
{
    ks_checked *c = &state->found;
    c->file = ks_realloc(c->file, (size_t)c->files + 1, sizeof *c->file);
    c->file[c->files++] = (ks_checked_file){s->number, s->mark, mapped};
}

/* Whether a later change of the file must show in its times. */
static bool is_settled(const ks_rescan_state *state, const ks_source *s)
{
    return s->mark.inode && state->now - s->mark.modified > SETTLED_NANOSECONDS &&
           state->now - s->mark.changed > SETTLED_NANOSECONDS;
}

/* Walks one source, and notes what was found of it. */
static int walk_one(scanner *s, int i, ks_rescan_state *state, bool check, ks_error *err)
{
    const ks_source *source = &s->sources->item[i];
    const ks_checked_file *known = state ? ks_checked_find(&state->known, source->number, &source->mark) : NULL;
    uint64_t bad = s->counts->bad;
    if (known && known->mapped && state->mapped) {
        note_found(state, source, true);
        return 0;
    }
    s->check = check && !known;
    if (ks_sources_walk(s->sources, i, see_row, s, &s->counts->bad, err))
        return -1;
    if (!state)
        return 0;
    bool good = s->counts->bad == bad && is_settled(state, source);
    state->complete &= good;
    state->has_shards |= source->number >= 0;
    if (good)
        note_found(state, source, false);
    return 0;
}

static int walk_all(scanner *s, ks_rescan_state *state, bool check, ks_error *err)
{
    int status = 0;
    for (int i = 0; i < s->sources->count && !status; i++)
        if (is_walked(&s->sources->item[i]))
            status = walk_one(s, i, state, check, err);
    free(s->latents.bytes);
    return status;
}

/* Lists the files and walks them; r NULL: nothing is known of them. any_order: what decides the samples' order is not asked. */
static int scan(const char *out, bool check, ks_rescan *r, bool any_order, scanner *s, ks_error *err)
{
    ks_store_info *info = NULL;
    ks_rescan_state *state = r ? r->state : NULL;
    int status = -1;
    *s->counts = (ks_scan_counts){0};
    if (!(s->sources = ks_sources_list(out, err)))
        return -1;
    s->counts->unreadable = s->sources->unreadable;
    for (int i = 0; i < s->sources->count; i++)
        s->counts->shards += s->sources->item[i].usable && s->sources->item[i].number >= 0;
    if (state) {
        state->complete = !s->sources->unreadable;
        state->mapped = state->known.samples && state->known.samples == r->samples &&
                        (any_order || ks_hash_equal(&state->known.sweep, &r->sweep)) &&
                        maps_hold(&state->known, s->sources);
    }
    if (!first_info(s->sources, &info, err)) {
        s->info = info;
        status = walk_all(s, state, check, err);
    }
    if (state)
        state->walked = !status;
    if (!status && state && state->mapped) {
        r->done = state->known.done;
        r->tried = state->known.tried;
    }
    ks_store_info_free(info);
    ks_sources_free(s->sources);
    return status;
}

int ks_store_scan(const char *out, bool check,
                  int (*see)(void *self, const ks_row *row, int shard, uint64_t place,
                             ks_error *err),
                  void *self, ks_scan_counts *counts, ks_error *err)
{
    ks_scan_counts none;
    scanner s = {.see = see, .self = self, .counts = counts ? counts : &none, .latents.source = -1};
    return scan(out, check, NULL, false, &s, err);
}

static void start_state(const char *out, ks_rescan *r)
{
    r->state = ks_calloc(1, sizeof *r->state);
    r->state->dir = ks_store_dir(out);
    r->state->fd = -1;
    ks_checked_read(r->state->dir, &r->state->known);
}

int ks_store_rescan(const char *out, ks_rescan *r,
                    int (*see)(void *self, const ks_row *row, int shard, uint64_t place,
                               ks_error *err),
                    void *self, ks_scan_counts *counts, ks_error *err)
{
    scanner s = {.see = see, .self = self, .counts = counts, .latents.source = -1};
    start_state(out, r);
    r->state->fd = ks_checked_begin(r->state->dir, &r->state->now);
    return scan(out, true, r, false, &s, err);
}

int ks_store_glance(const char *out, ks_rescan *r, bool any_order,
                    int (*see)(void *self, const ks_row *row, int shard, uint64_t place,
                               ks_error *err),
                    void *self, ks_scan_counts *counts, ks_error *err)
{
    scanner s = {.see = see, .self = self, .counts = counts, .latents.source = -1};
    start_state(out, r);
    return scan(out, false, r, any_order, &s, err);
}

/* What is to be kept: new bitmaps where they are of all files, else the known ones where they hold, else none. */
static void choose_maps(const ks_rescan *r, const uint64_t *done, const uint64_t *tried)
{
    ks_rescan_state *state = r->state;
    ks_checked *c = &state->found;
    bool anew = done && tried && state->complete;
    c->samples = anew || state->mapped ? r->samples : 0;
    c->sweep = r->sweep;
    c->done = (uint64_t *)(uintptr_t)(anew ? done : state->known.done);
    c->tried = (uint64_t *)(uintptr_t)(anew ? tried : state->known.tried);
    for (uint64_t i = 0; i < c->files && anew; i++)
        c->file[i].mapped = 1;
}

void ks_store_rescan_end(ks_rescan *r, const uint64_t *done, const uint64_t *tried)
{
    ks_rescan_state *state = r->state;
    if (!state)
        return;
    bool more = state->walked && state->has_shards && state->found.files > 0; /* than was known */
    choose_maps(r, done, tried);
    ks_checked_write(state->dir, state->fd, more ? &state->found : NULL);
    state->found.done = state->found.tried = NULL; /* others' */
    ks_checked_free(&state->found);
    ks_checked_free(&state->known);
    free(state->dir);
    free(state);
    *r = (ks_rescan){0};
}

/* Who wants to write an output that cannot be read has another way out than its shards. Returns -1. */
static int advise(const char *out, ks_error *err)
{
    ks_error why = *err;
    return ks_store_has_shards(out) ? -1 : ks_error_set(err, "%s; name another output, or move it", why.text);
}

int ks_store_info_read(const char *out, ks_store_info **info, ks_error *err)
{
    *info = NULL;
    ks_sources *sources = ks_sources_list(out, err);
    if (!sources)
        return advise(out, err);
    int status = first_info(sources, info, err);
    ks_sources_free(sources);
    return status ? -1 : *info != NULL;
}
