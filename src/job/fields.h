/* Objects of the job file as tables: one row a key.
 *
 * A row says where its value goes (an offset into the struct that the table fills), what it may be,
 * what stands for it when it is absent, and what to give when it must not be. The schema
 * (jobs/job.schema.json) and docs/job-format.md say the same things to editors and people. */
#ifndef KS_JOB_FIELDS_H
#define KS_JOB_FIELDS_H

#include <stddef.h>

#include "base/error.h"
#include "base/json.h"

typedef struct ks_field ks_field;

/* Reads the value v of a row into the struct. Fails with the file, the path, what is wrong and what
 * would be right. */
typedef int ks_field_fn(const ks_field *f, void *into, ks_json v, ks_error *err);

struct ks_field {
    const char *name;
    ks_field_fn *read;
    size_t at;                  /* offset of the value */
    double low, high;           /* of a number; low of a text: bytes at least */
    const char *wanted;         /* what would be right; NULL: the reader's own words */
    const char *const *choices; /* of a choice: NULL at the end; a char array at `at` */
    ks_field_fn *item, *range;  /* of an axis: reads one value; reads a range, or NULL */
    size_t size, count;         /* of an axis: bytes of a value; offset of the int count */
    const char *fallback;       /* JSON text read when the key is absent; NULL: left as it is */
    const char *missing;        /* the key must be there: what to give; NULL: it may be absent */
};

/* Objects that a job file has. Names the rows of the table of what this version refuses. */
typedef enum ks_part {
    KS_PART_JOB, KS_PART_COND, KS_PART_LATENT, KS_PART_SEED, KS_PART_RANGE, KS_PART_LINES,
    KS_PART_MASK, KS_PART_PARALLEL, KS_PART_OUTPUT
} ks_part;

/* Reads an object by its table (rows end with name NULL). Fails on unknown keys, on what this
 * version refuses, on missing ones, and where a row's reader fails. */
int ks_fields_read(ks_json object, ks_part part, const ks_field *fields, void *into, ks_error *err);

/* Refuses a key that the format has and this version has not; 0 when the object holds none. */
int ks_refuse_unsupported(ks_json object, ks_part part, ks_error *err);

/* "<file>: <path>: <value> does not fit; give <wanted>"; returns -1. */
int ks_misfit(ks_json v, ks_error *err, const char *wanted);

/* Readers. Numbers must lie in low..high. Texts and paths become the struct's own memory. */
ks_field_fn ks_field_double, ks_field_int, ks_field_bool, ks_field_choice;
ks_field_fn ks_field_text;
ks_field_fn ks_field_path; /* as seen from the job file's folder */

/* An axis: a value, a list of values, or a range. Sets the array at `at` and the count. */
ks_field_fn ks_field_axis;

/* Items of an axis, and ranges of them. */
ks_field_fn ks_item_double, ks_item_int, ks_item_sampler, ks_item_scheduler;
ks_field_fn ks_item_conditioning, ks_item_latent;
ks_field_fn ks_range_doubles, ks_range_ints; /* set array and count as ks_field_axis does */

/* An axis of conditionings: as ks_field_axis, or from a file (lines.h). into is a ks_job. */
ks_field_fn ks_field_conditionings;

/* The seed axis, into a ks_job whose control is known. */
ks_field_fn ks_field_seed;

#endif
