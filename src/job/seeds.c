#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/file.h"
#include "job/fields.h"
#include "job/job.h"
#include "job/lines.h"

static const char seed_wanted[] =
    "a whole number from 0 to 18446744073709551615, as a number or as a text of its digits";

static int read_u64(uint64_t *out, ks_json v, ks_error *err)
{
    return ks_json_u64(v, out, NULL) == 0 ? 0 : ks_misfit(v, err, seed_wanted);
}

static int field_u64(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    return read_u64((uint64_t *)((char *)into + f->at), v, err);
}

/* {"start", "count"}: seeds that control_after_generate makes. */
typedef struct run {
    uint64_t start, count;
} run;

static int field_count(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    uint64_t *count = (uint64_t *)((char *)into + f->at);
    if (ks_json_u64(v, count, NULL) != 0 || *count < 1 || *count > INT64_MAX)
        return ks_misfit(v, err, "how many seeds to make, 1 to 9223372036854775807");
    return 0;
}

static int read_run(ks_job *job, ks_json v, ks_error *err)
{
    static const ks_field fields[] = {
        {.name = "start", .read = field_u64, .at = offsetof(run, start)},
        {.name = "count", .read = field_count, .at = offsetof(run, count),
         .missing = "how many seeds to make from start"},
        {.name = NULL}};
    run r = {0};
    if (ks_fields_read(v, KS_PART_SEED, fields, &r, err) != 0)
        return -1;
    job->seed_start = r.start;
    job->seed_count = r.count;
    return 0;
}

/* {"from", "to", "step"}: never a list, however long. */
typedef struct seed_range {
    uint64_t from, to;
    int64_t step;
} seed_range;

static int field_step(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    const int64_t limit = INT64_C(1) << 53;
    if (ks_json_int(v, -limit, limit, (int64_t *)((char *)into + f->at), NULL) != 0)
        return ks_misfit(v, err, "a whole number from -9007199254740992 to 9007199254740992");
    return 0;
}

/* Checks direction and end of a range of seeds and sets its count. */
static int count_range(const seed_range *r, ks_json v, uint64_t *count, ks_error *err)
{
    ks_json step = ks_json_get(v, "step"), to = ks_json_get(v, "to");
    bool up = r->to > r->from;
    uint64_t way = up ? r->to - r->from : r->from - r->to;
    uint64_t size = r->step < 0 ? (uint64_t)-r->step : (uint64_t)r->step;
    if (size == 0)
        return ks_misfit(step, err, "the distance from one seed to the next, not 0");
    if (way != 0 && up != (r->step > 0))
        return ks_misfit(step, err, up ? "a positive step, as \"to\" is above \"from\""
                                       : "a negative step, as \"to\" is below \"from\"");
    if (way % size != 0)
        return ks_misfit(to, err, "an end that the steps reach (both ends are included)");
    if (way / size >= INT64_MAX)
        return ks_json_error(v, err, "is a range of more than 9223372036854775807 seeds; give a "
                             "larger step or a nearer end");
    *count = way / size + 1;
    return 0;
}

static int read_range(ks_job *job, ks_json v, ks_error *err)
{
    static const ks_field fields[] = {
        {.name = "from", .read = field_u64, .at = offsetof(seed_range, from),
         .missing = "the first seed"},
        {.name = "to", .read = field_u64, .at = offsetof(seed_range, to),
         .missing = "the last seed"},
        {.name = "step", .read = field_step, .at = offsetof(seed_range, step),
         .missing = "the distance from one seed to the next"},
        {.name = NULL}};
    seed_range r = {0};
    if (ks_fields_read(v, KS_PART_RANGE, fields, &r, err) != 0 ||
        count_range(&r, v, &job->seed_count, err) != 0)
        return -1;
    job->seed_start = r.from;
    job->seed_step = r.step < 0 ? (uint64_t)-r.step : (uint64_t)r.step;
    job->control = r.step < 0 ? KS_DECREMENT : KS_INCREMENT;
    return 0;
}

static int read_list(ks_job *job, ks_json v, ks_error *err)
{
    int n = ks_json_size(v);
    if (n == 0)
        return ks_json_error(v, err, "is an empty list; give at least one seed");
    job->seed_list = ks_calloc((size_t)n, sizeof *job->seed_list);
    job->seed_count = (uint64_t)n;
    for (int i = 0; i < n; i++)
        if (read_u64(&job->seed_list[i], ks_json_at(v, i), err) != 0)
            return -1;
    job->seed_start = job->seed_list[0];
    return 0;
}

/* The digits of a line, blanks around them aside. */
static int parse_seed(const char *text, uint64_t *seed)
{
    *seed = 0;
    text += strspn(text, " \t");
    size_t digits = strspn(text, "0123456789");
    if (digits == 0 || text[digits + strspn(text + digits, " \t")] != '\0')
        return -1;
    for (size_t i = 0; i < digits; i++)
        if (__builtin_mul_overflow(*seed, 10, seed) ||
            __builtin_add_overflow(*seed, (uint64_t)(text[i] - '0'), seed))
            return -1;
    return 0;
}

static int read_line(ks_lines *lines, uint64_t *seed, ks_error *err)
{
    ks_line line;
    if (ks_lines_next(lines, &line, err) != 0)
        return -1;
    if (!line.text)
        return read_u64(seed, line.value, err) ? ks_lines_wrap(lines, err) : 0;
    if (parse_seed(line.text, seed) == 0)
        return 0;
    ks_lines_misfit(lines, err, "a whole number from 0 to 18446744073709551615");
    return ks_lines_wrap(lines, err);
}

static int read_lines(ks_job *job, ks_json v, ks_error *err)
{
    ks_lines *lines = ks_lines_open(job, v, err);
    if (!lines)
        return -1;
    int n = ks_lines_count(lines), rc = 0;
    job->seed_list = ks_calloc((size_t)n, sizeof *job->seed_list);
    job->seed_count = (uint64_t)n;
    for (int i = 0; i < n && !rc; i++)
        rc = read_line(lines, &job->seed_list[i], err);
    job->seed_start = job->seed_list[0];
    ks_lines_free(lines);
    return rc;
}

int ks_field_seed(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    (void)f;
    ks_job *job = into;
    job->seed_step = 1;
    job->seed_count = 1;
    if (ks_json_is_array(v))
        return read_list(job, v, err);
    if (!ks_json_is_object(v))
        return read_u64(&job->seed_start, v, err);
    if (ks_lines_named(v))
        return read_lines(job, v, err);
    bool range = ks_json_exists(ks_json_get(v, "from")) || ks_json_exists(ks_json_get(v, "to"));
    return range ? read_range(job, v, err) : read_run(job, v, err);
}
