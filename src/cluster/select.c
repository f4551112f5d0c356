#include "cluster/select.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/nearest.h"
#include "cluster/axis_text.h"
#include "cluster/bitmap.h"
#include "sampling/sampler.h"
#include "sampling/schedule.h"

enum {
    INDEX = KS_AXES,
    TABLE_SIZE = 1 << 24,
    RUN_POINTS = 64,
    RUNS_OF_A_SHARD = 256,
    MOST_SHARDS = 1000000
};
static const uint64_t MOST_POINTS = (uint64_t)1 << 34; /* two maps of 2 GiB */

/* Values from low to high, both included: as numbers (cfg, denoise) or whole numbers (all others).
 */
typedef struct span {
    double low, high;
    uint64_t first, last;
} span;

typedef struct filter {
    const char *text; /* as it was given */
    const ks_job *job;
    int axis; /* or INDEX */
    span *span;
    int spans;
    bool *on; /* [values of the axis]: which pass; NULL for axes of very many values, and for the
                 index */
} filter;

/* "--filter <text>: <what>"; returns -1. */
__attribute__((format(printf, 3, 4))) static int fail(const filter *f, ks_error *err,
                                                      const char *format, ...)
{
    char what[600];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    return ks_error_set(err, "--filter %.120s: %s", f->text, what);
}

/* --- one value --- */

static bool is_real(int axis)
{
    return axis == KS_AXIS_CFG || axis == KS_AXIS_DENOISE;
}

static bool is_name(int axis)
{
    return axis == KS_AXIS_SAMPLER || axis == KS_AXIS_SCHEDULER;
}

static bool read_real(const char *text, double *value)
{
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    return end != text && !*end && !errno && isfinite(*value);
}

static bool read_whole(const char *text, uint64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    return text[0] >= '0' && text[0] <= '9' && !*end && !errno;
}

/* A value's text into one end of a span; false when it is none of the axis' kind. */
static bool read_value(const filter *f, const char *text, double *real, uint64_t *whole)
{
    if (is_real(f->axis))
        return read_real(text, real);
    if (!is_name(f->axis))
        return read_whole(text, whole);
    int row = f->axis == KS_AXIS_SAMPLER ? ks_sampler_find(text) : ks_scheduler_find(text);
    *whole = (uint64_t)row;
    return row >= 0;
}

/* Whether value k of the axis lies in the span. */
static bool covers(const filter *f, const span *s, uint64_t k)
{
    const ks_job *job = f->job;
    uint64_t whole = k; /* of the axes that count by place */
    switch (f->axis) {
    case KS_AXIS_DENOISE:
        return job->denoise[k] >= s->low && job->denoise[k] <= s->high;
    case KS_AXIS_CFG:
        return job->cfg[k] >= s->low && job->cfg[k] <= s->high;
    case KS_AXIS_SCHEDULER:
        whole = (uint64_t)job->scheduler[k];
        break;
    case KS_AXIS_SAMPLER:
        whole = (uint64_t)job->sampler[k];
        break;
    case KS_AXIS_STEPS:
        whole = (uint64_t)job->steps[k];
        break;
    case KS_AXIS_SEED:
        whole = ks_job_seed(job, k);
        break;
    default:
        break;
    }
    return whole >= s->first && whole <= s->last;
}

/* --- one filter --- */

static const char *kind_of(int axis)
{
    if (is_real(axis))
        return "a number, or a range as in 2..4.5";
    if (axis == KS_AXIS_SAMPLER)
        return "the name of a sampler";
    if (axis == KS_AXIS_SCHEDULER)
        return "the name of a scheduler";
    if (axis <= KS_AXIS_LATENT)
        return "the place of a value, 0 for the first, or a range as in 0..9";
    return "a whole number, or a range as in 0..9";
}

/* "A" or "A..B", which is changed. */
static int read_span(filter *f, char *text, ks_error *err)
{
    span *s = &f->span[f->spans++];
    char *dots = is_name(f->axis) ? NULL : strstr(text, "..");
    const char *high = dots ? dots + 2 : text;
    if (dots)
        *dots = 0;
    if (!read_value(f, text, &s->low, &s->first) || !read_value(f, high, &s->high, &s->last))
        return fail(f, err, "\"%.60s%s%.60s\" does not fit; give %s", text, dots ? ".." : "",
                    dots ? high : "", kind_of(f->axis));
    if (is_real(f->axis) ? s->low > s->high : s->first > s->last)
        return fail(f, err, "the range %.60s..%.60s is empty; give the lower end first", text,
                    high);
    return 0;
}

/* "cfg has 2, 4, 7": the first of an axis' values. */
static void values_text(const filter *f, char *out, int size)
{
    enum { SHOWN = 8 };
    uint64_t count = ks_job_axis_size(f->job, (ks_axis)f->axis);
    int used = snprintf(out, (size_t)size, "%s has ", ks_axis_name((ks_axis)f->axis));
    if (f->axis <= KS_AXIS_LATENT) {
        snprintf(out + used, (size_t)(size - used), "the places 0 to %llu",
                 (unsigned long long)(count - 1));
        return;
    }
    for (uint64_t k = 0; k < count && k < SHOWN && used < size; k++) {
        char value[40];
        ks_axis_value_text(f->job, (ks_axis)f->axis, k, value, sizeof value);
        used += snprintf(out + used, (size_t)(size - used), "%s%s", k ? ", " : "", value);
    }
    if (count > SHOWN && used < size)
        snprintf(out + used, (size_t)(size - used), ", ...");
}

/* Marks the axis' values that pass. Every span must meet one of them: what meets none is a mistake.
 */
static int mark_values(filter *f, const char *values, ks_error *err)
{
    uint64_t count = ks_job_axis_size(f->job, (ks_axis)f->axis);
    char known[400];
    if (count > TABLE_SIZE)
        return 0;
    f->on = ks_calloc((size_t)count, sizeof *f->on);
    for (int i = 0; i < f->spans; i++) {
        bool any = false;
        for (uint64_t k = 0; k < count; k++) {
            bool in = covers(f, &f->span[i], k);
            f->on[k] |= in;
            any |= in;
        }
        if (any)
            continue;
        values_text(f, known, sizeof known);
        for (int skip = i; skip > 0; skip--)
            values = strchr(values, ',') + 1;
        return fail(f, err, "no value of this sweep is \"%.*s\"; %s", (int)strcspn(values, ","),
                    values, known);
    }
    return 0;
}

static int check_index(const filter *f, ks_error *err)
{
    uint64_t samples = ks_job_samples(f->job);
    for (int i = 0; i < f->spans; i++) {
        if (f->span[i].first >= samples)
            return fail(f, err, "the sweep has the samples 0 to %llu",
                        (unsigned long long)(samples - 1));
    }
    return 0;
}

static int find_axis(filter *f, size_t length, ks_error *err)
{
    const char *names[INDEX + 1];
    char name[32];
    int count = 0;
    snprintf(name, sizeof name, "%.*s", (int)length, f->text);
    for (int a = 0; a < KS_AXES; a++) {
        if (a != KS_AXIS_BATCH)
            names[count++] = ks_axis_name((ks_axis)a);
        if (!strcmp(name, ks_axis_name((ks_axis)a)))
            f->axis = a;
    }
    names[count++] = "index";
    if (!strcmp(name, "index"))
        f->axis = INDEX;
    if (f->axis == KS_AXIS_BATCH)
        return fail(f, err, "the latents of a batch are rendered together; filter by another axis");
    const char *nearest = f->axis < 0 ? ks_nearest(name, names, (size_t)count) : NULL;
    if (nearest)
        return fail(f, err, "no axis is called \"%s\"; did you mean \"%s\"?", name, nearest);
    if (f->axis < 0)
        return fail(f, err,
                    "no axis is called \"%s\"; give positive, negative, latent_image, denoise, "
                    "scheduler, sampler_name, "
                    "cfg, steps, seed or index",
                    name);
    return 0;
}

static int read_filter(filter *f, const ks_job *job, const char *text, ks_error *err)
{
    *f = (filter){.text = text, .job = job, .axis = -1};
    const char *equals = strchr(text, '=');
    if (!equals || equals == text || !equals[1])
        return fail(f, err, "give AXIS=VALUES, as in cfg=2..4 or sampler_name=euler,heun");
    if (find_axis(f, (size_t)(equals - text), err))
        return -1;
    size_t room = 1;
    for (const char *c = equals; *c; c++)
        room += *c == ',';
    f->span = ks_calloc(room, sizeof *f->span);
    char *values = ks_strdup(equals + 1), *rest = values;
    int rc = 0;
    for (char *value; !rc && (value = strsep(&rest, ","));)
        rc = read_span(f, value, err);
    free(values);
    if (!rc)
        rc = f->axis == INDEX ? check_index(f, err) : mark_values(f, equals + 1, err);
    return rc;
}

static void free_filters(filter *f, int count)
{
    for (int i = 0; i < count; i++) {
        free(f[i].span);
        free(f[i].on);
    }
    free(f);
}

/* --- points --- */

static bool passes(const filter *f, uint64_t index, const uint64_t at[KS_AXES])
{
    uint64_t last = index + (uint64_t)f->job->batch - 1;
    if (f->on)
        return f->on[at[f->axis]];
    for (int i = 0; i < f->spans; i++) {
        const span *s = &f->span[i];
        if (f->axis == INDEX ? last >= s->first && index <= s->last : covers(f, s, at[f->axis]))
            return true;
    }
    return false;
}

static uint64_t *new_map(uint64_t points, ks_error *err)
{
    if (points > MOST_POINTS)
        ks_error_set(err,
                     "--filter and --shard: the sweep has %llu KSampler calls, and parts are taken "
                     "of at most %llu",
                     (unsigned long long)points, (unsigned long long)MOST_POINTS);
    uint64_t *map =
        points > MOST_POINTS ? NULL : calloc((size_t)ks_bitmap_words(points), sizeof *map);
    if (!map && points <= MOST_POINTS)
        ks_error_set(err, "--filter and --shard: no memory for a map of %llu KSampler calls",
                     (unsigned long long)points);
    return map;
}

static int apply_filters(ks_selection *s, const ks_job *job, const filter *f, int count,
                         ks_error *err)
{
    s->wanted = s->points;
    if (!count)
        return 0;
    s->wanted_map = new_map(s->points, err);
    if (!s->wanted_map)
        return -1;
    s->wanted = 0;
    for (uint64_t p = 0; p < s->points; p++) {
        uint64_t at[KS_AXES], index = p * (uint64_t)job->batch;
        bool in = true;
        ks_job_coordinates(job, index, at);
        for (int i = 0; i < count && in; i++)
            in = passes(&f[i], index, at);
        if (in) {
            ks_bit_set(s->wanted_map, p);
            s->wanted++;
        }
    }
    if (s->wanted)
        return 0;
    return ks_error_set(err, "--filter %.120s%s: no sample of the sweep passes%s", f[0].text,
                        count > 1 ? " and the others" : "", count > 1 ? " all of them" : "");
}

/* Where a round of N runs begins to be dealt: splitmix64's output function (Steele et al. 2014). */
static uint64_t scatter(uint64_t round)
{
    uint64_t z = (round + 1) * UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static int deal(ks_selection *s, ks_error *err)
{
    uint64_t parts = (uint64_t)s->parts, number = 0;
    s->mine = s->wanted;
    if (!parts)
        return 0;
    uint64_t length = s->wanted / (parts * RUNS_OF_A_SHARD);
    length = length < 1 ? 1 : length > RUN_POINTS ? RUN_POINTS : length;
    s->mine_map = new_map(s->points, err);
    if (!s->mine_map)
        return -1;
    s->mine = 0;
    for (uint64_t p = 0; p < s->points; p++) {
        if (s->wanted_map && !ks_bit(s->wanted_map, p))
            continue;
        uint64_t run = number++ / length, round = run / parts;
        if ((run % parts + scatter(round) % parts) % parts == (uint64_t)s->part) {
            ks_bit_set(s->mine_map, p);
            s->mine++;
        }
    }
    return 0;
}

static int read_shard(ks_selection *s, const char *text, ks_error *err)
{
    char *end;
    if (!text)
        return 0;
    long part = strtol(text, &end, 10), parts = 0;
    bool good = end != text && text[0] != '+' && *end == '/' && end[1] >= '0' && end[1] <= '9';
    if (good)
        parts = strtol(end + 1, &end, 10);
    if (!good || *end || parts < 1 || parts > MOST_SHARDS)
        return ks_error_set(err, "--shard %.40s: give I/N, as in 0/4: part I of N, counted from 0",
                            text);
    if (part < 0 || part >= parts)
        return ks_error_set(err, "--shard %.40s: parts are counted from 0; give 0/%ld to %ld/%ld",
                            text, parts, parts - 1, parts);
    s->part = (int)part;
    s->parts = (int)parts;
    return 0;
}

int ks_select(ks_selection *s, const ks_job *job, const char *const *filters, int filter_count,
              const char *shard, ks_error *err)
{
    *s = (ks_selection){.points = ks_job_samples(job) / (uint64_t)job->batch};
    if (read_shard(s, shard, err))
        return -1;
    filter *f = ks_calloc((size_t)filter_count + 1, sizeof *f);
    int rc = 0;
    for (int i = 0; i < filter_count && !rc; i++)
        rc = read_filter(&f[i], job, filters[i], err);
    if (!rc)
        rc = apply_filters(s, job, f, filter_count, err) || deal(s, err) ? -1 : 0;
    free_filters(f, filter_count);
    return rc;
}

void ks_selection_free(ks_selection *s)
{
    free(s->wanted_map);
    free(s->mine_map);
    *s = (ks_selection){0};
}
