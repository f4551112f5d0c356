/* What an output's files hold: every row, and the info of the run. */
#include <stdlib.h>

#include "base/file.h"
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

typedef struct scanner {
    ks_sources *sources;
    const ks_store_info *info;
    bool check;
    int (*see)(void *self, const ks_row *row, int shard, uint64_t place, ks_error *err);
    void *self;
    ks_scan_counts *counts;
} scanner;

static int see_row(void *self, int source, uint64_t place, const ks_table_row *t, ks_error *err)
{
    const scanner *s = self;
    ks_row row;
    if (s->check) {
        ks_source *from = ks_sources_use(s->sources, source, NULL);
        if (!from || !ks_source_latent_good(from, place, t)) {
            s->counts->bad++;
            return 0;
        }
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

int ks_store_scan(const char *out, bool check,
                  int (*see)(void *self, const ks_row *row, int shard, uint64_t place,
                             ks_error *err),
                  void *self, ks_scan_counts *counts, ks_error *err)
{
    ks_scan_counts none;
    ks_store_info *info = NULL;
    int status = -1;
    counts = counts ? counts : &none;
    *counts = (ks_scan_counts){0};
    ks_sources *sources = ks_sources_list(out, err);
    if (!sources)
        return -1;
    counts->unreadable = sources->unreadable;
    for (int i = 0; i < sources->count; i++)
        counts->shards += sources->item[i].usable && sources->item[i].number >= 0;
    if (!first_info(sources, &info, err)) {
        scanner s = {sources, info, check, see, self, counts};
        status = ks_sources_walk(sources, -1, see_row, &s, &counts->bad, err);
    }
    ks_store_info_free(info);
    ks_sources_free(sources);
    return status;
}

int ks_store_info_read(const char *out, ks_store_info **info, ks_error *err)
{
    *info = NULL;
    ks_sources *sources = ks_sources_list(out, err);
    if (!sources)
        return -1;
    int status = first_info(sources, info, err);
    ks_sources_free(sources);
    return status ? -1 : *info != NULL;
}
