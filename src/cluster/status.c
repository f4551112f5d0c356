/* ksweep status. */
#include <math.h>

#include "base/error.h"
#include "base/units.h"
#include "cluster/status.h"
#include "cluster/text.h"

void ks_counts_of(const ks_tally *t, ks_counts *counts)
{
    uint64_t samples = t->info->samples;
    *counts = (ks_counts){.samples = samples, .done = t->done, .failed = t->failed, .missing = samples - t->done - t->failed};
}

static void add_counts(ks_text *text, const char *output, const ks_counts *c)
{
    ks_text_add(text, "%s: %llu of %llu samples done (%.1f %%), %llu failed, %llu missing\n", output,
                (unsigned long long)c->done, (unsigned long long)c->samples,
                c->samples ? 100.0 * (double)c->done / (double)c->samples : 100.0, (unsigned long long)c->failed,
                (unsigned long long)c->missing);
}

static void add_files(ks_text *text, const ks_tally *t)
{
    const char *how = t->collected ? "collected" : t->has_out ? "collected before, not what came since" : "not collected yet";
    ks_text_add(text, "%s; %d shards", how, t->shards);
    if (t->unreadable)
        ks_text_add(text, ", and %d more that cannot be read", t->unreadable);
    ks_text_add(text, "\n");
}

static void add_digests(ks_text *text, const ks_tally *t)
{
    char size[32];
    ks_size_text(t->latent_bytes, size, sizeof size);
    if (t->bad)
        ks_text_add(text, "%llu rows are damaged: the next run renders them again\n", (unsigned long long)t->bad);
    if (!t->checked)
        ks_text_add(text, "the digests of %s of latents were not tested: ksweep status --check does\n", size);
}

static void add_origin(ks_text *text, const ks_store_info *info)
{
    ks_text_add(text, "backend %s in %s on %s, %d rows a call, noise device %s, ksweep %s\n", info->backend, info->precision,
                info->device, info->batch_rows, info->noise_device, info->version);
}

char *ks_status_text(const char *output, bool check, ks_counts *counts, ks_error *err)
{
    ks_tally t;
    ks_text text = {0};
    *counts = (ks_counts){0};
    if (ks_store_tally(output, check ? HUGE_VAL : KS_TALLY_BYTES, &t, err))
        return NULL;
    if (!t.info && t.unreadable)
        ks_error_set(err, "%s: there is no output, and none of the %d shards in %s.d can be read: the next run begins anew",
                     output, t.unreadable, output);
    else if (!t.info)
        ks_error_set(err, "%s: there is no output and no %s.d folder with shards", output, output);
    if (t.info) {
        ks_counts_of(&t, counts);
        add_counts(&text, output, counts);
        add_files(&text, &t);
        add_digests(&text, &t);
        add_origin(&text, t.info);
    }
    ks_tally_free(&t);
    return text.bytes;
}
