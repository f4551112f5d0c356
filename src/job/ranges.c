#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "job/fields.h"

/* {"from", "to", "step"} in exact arithmetic: the numbers are whole multiples of 1 / scale, a
 * power of ten, as they stand in the job file. So steps of 0.1 reach 1.0, and value k is the
 * very double that the same decimal in a list gives. */
typedef struct range {
    int64_t from, to, step;
    double scale;
    int64_t count;
} range;

enum { MOST_VALUES = 1000000 };
static const double exact_double = 9007199254740992.0; /* 2^53 */

/* x * scale when that is a whole number that gives x back; -1 when it is not. */
static int to_whole(double x, double scale, int64_t *whole)
{
    double scaled = nearbyint(x * scale);
    if (fabs(scaled) > exact_double || scaled / scale != x)
        return -1;
    *whole = (int64_t)scaled;
    return 0;
}

/* Finds the scale of three decimals. Powers of ten up to 10^22 are exact doubles, so that
 * dividing by them rounds once, as reading the decimal does. */
static int find_scale(const double x[3], range *r)
{
    r->scale = 1;
    for (int digits = 0; digits <= 22; digits++, r->scale *= 10)
        if (to_whole(x[0], r->scale, &r->from) == 0 && to_whole(x[1], r->scale, &r->to) == 0 &&
            to_whole(x[2], r->scale, &r->step) == 0)
            return 0;
    return -1;
}

static double value_at(const range *r, int64_t k)
{
    return (double)(r->from + k * r->step) / r->scale;
}

/* Says where the steps go when they do not meet "to", and which of these ends the key takes. */
static int misses_end(const ks_field *f, const range *r, ks_json v, ks_error *err)
{
    int64_t k = (r->to - r->from) / r->step;
    double beyond = value_at(r, k + 1);
    char wanted[160];
    int used = snprintf(wanted, sizeof wanted, "an end that the steps reach (both ends are included): %.15g", value_at(r, k));
    if (beyond >= f->low && beyond <= f->high)
        snprintf(wanted + used, sizeof wanted - (size_t)used, " or %.15g", beyond);
    return ks_misfit(ks_json_get(v, "to"), err, wanted);
}

/* Checks direction, end and number of the steps, and sets the count. */
static int check(const ks_field *f, range *r, ks_json v, ks_error *err)
{
    int64_t way = r->to - r->from;
    ks_json step = ks_json_get(v, "step");
    if (r->step == 0)
        return ks_misfit(step, err, "the distance from one value to the next, not 0");
    if (way != 0 && (way > 0) != (r->step > 0))
        return ks_misfit(step, err, way > 0 ? "a positive step, as \"to\" is above \"from\""
                                            : "a negative step, as \"to\" is below \"from\"");
    if (way % r->step != 0)
        return misses_end(f, r, v, err);
    r->count = way / r->step + 1;
    if (r->count > MOST_VALUES)
        return ks_json_error(v, err, "is a range of %lld values; give at most %d",
                             (long long)r->count, MOST_VALUES);
    return 0;
}

#define RANGE_FIELDS(reader, type, f)                                                              \
    {{.name = "from", .read = reader, .at = 0, .low = (f)->low, .high = (f)->high,                 \
      .missing = "the first value"},                                                               \
     {.name = "to", .read = reader, .at = sizeof(type), .low = (f)->low, .high = (f)->high,        \
      .missing = "the last value"},                                                                \
     {.name = "step", .read = reader, .at = 2 * sizeof(type), .low = (f)->low - (f)->high,         \
      .high = (f)->high - (f)->low, .missing = "the distance from one value to the next"},         \
     {.name = NULL}}

/* Puts the array into the struct of the axis' field. */
static void set_axis(const ks_field *f, void *into, void *values, int count)
{
    memcpy((char *)into + f->at, &values, sizeof values);
    memcpy((char *)into + f->count, &count, sizeof count);
}

int ks_range_doubles(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    const ks_field fields[] = RANGE_FIELDS(ks_field_double, double, f);
    double x[3] = {0};
    range r = {0};
    if (ks_fields_read(v, KS_PART_RANGE, fields, x, err) != 0)
        return -1;
    if (find_scale(x, &r) != 0)
        return ks_json_error(v, err, "has numbers of too many digits to step exactly; give at most "
                             "15 significant digits, or a list");
    if (check(f, &r, v, err) != 0)
        return -1;
    double *values = ks_calloc((size_t)r.count, sizeof *values);
    for (int64_t k = 0; k < r.count; k++)
        values[k] = value_at(&r, k);
    set_axis(f, into, values, (int)r.count);
    return 0;
}

int ks_range_ints(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    const ks_field fields[] = RANGE_FIELDS(ks_field_int, int, f);
    int x[3] = {0};
    if (ks_fields_read(v, KS_PART_RANGE, fields, x, err) != 0)
        return -1;
    range r = {.from = x[0], .to = x[1], .step = x[2], .scale = 1};
    if (check(f, &r, v, err) != 0)
        return -1;
    int *values = ks_calloc((size_t)r.count, sizeof *values);
    for (int64_t k = 0; k < r.count; k++)
        values[k] = (int)(r.from + k * r.step);
    set_axis(f, into, values, (int)r.count);
    return 0;
}
