/* JSON access that knows where it is: every complaint names the file and the path (`cfg[2]`).
 *
 * Parsing is cJSON's. Whole numbers outside the range that a double holds exactly keep their digits
 * (ks_json_u64 reads them without rounding). Duplicate keys in one object are an error. */
#ifndef KS_BASE_JSON_H
#define KS_BASE_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

struct cJSON;

/* A parsed document. */
typedef struct ks_json_doc ks_json_doc;

/* A value and where it stands. Small: passed by value. path is "" at the root. */
typedef struct ks_json {
    const ks_json_doc *doc;
    const struct cJSON *item; /* NULL: absent */
    char path[160];
} ks_json;

/* name: what messages call the text (a file name). The text need not end with NUL. It must be
 * strict JSON in UTF-8: no trailing commas or text, no NUL, at most 100 levels and 2^24 values.
 * Syntax errors name line and column. */
ks_json_doc *ks_json_parse(const char *name, const char *text, size_t size, ks_error *err);
ks_json_doc *ks_json_read(const char *file, ks_error *err); /* at most 256 MiB */
void ks_json_free(ks_json_doc *doc);
ks_json ks_json_root(const ks_json_doc *doc);
const char *ks_json_name(const ks_json_doc *doc);
/* Compact text, big integers exact. free() it; NULL without memory. */
char *ks_json_print(ks_json v);

bool ks_json_exists(ks_json v);
bool ks_json_is_object(ks_json v);
bool ks_json_is_array(ks_json v);
bool ks_json_is_string(ks_json v);
bool ks_json_is_number(ks_json v); /* big integers included */

int ks_json_size(ks_json v);                 /* of an array or object; 0 for others */
/* Children. item is NULL when there is none; path grows by "[index]" or ".key". */
ks_json ks_json_at(ks_json array, int index);
ks_json ks_json_get(ks_json object, const char *key);
ks_json ks_json_member(ks_json object, int index, const char **key); /* key: NULL, or its name */

/* "<file>: <path>: <formatted>" into err; returns -1. The formatted part says what is wrong and
 * what would be right. */
int ks_json_error(ks_json v, ks_error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Each fails with the path, what was found and what is wanted. */
int ks_json_double(ks_json v, double *out, ks_error *err); /* finite */
int ks_json_int(ks_json v, int64_t low, int64_t high, int64_t *out, ks_error *err); /* low..high */
int ks_json_u64(ks_json v, uint64_t *out, ks_error *err); /* number or decimal string, exact */
int ks_json_bool(ks_json v, bool *out, ks_error *err);
int ks_json_string(ks_json v, const char **out, ks_error *err); /* lives as long as the document */

/* Fails on the object's first key that is not in allowed (ends with NULL), naming the nearest. */
int ks_json_only(ks_json object, const char *const *allowed, ks_error *err);

#endif
