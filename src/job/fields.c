#include "job/fields.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { SHOWN = 60, MOST_KEYS = 40 };

/* The value as compact JSON (so that a message stays one line), cut between characters. */
static void show(ks_json v, char out[SHOWN + 4])
{
    char *text = ks_json_print(v);
    snprintf(out, SHOWN + 1, "%s", text ? text : "this");
    if (text && strlen(text) > SHOWN) {
        size_t end = SHOWN;
        while (end > 0 && ((unsigned char)text[end] & 0xC0) == 0x80)
            end--;
        strcpy(out + end, "...");
    }
    free(text);
}

int ks_misfit(ks_json v, ks_error *err, const char *wanted)
{
    char shown[SHOWN + 4];
    show(v, shown);
    return ks_json_error(v, err, "%s does not fit; give %s", shown, wanted);
}

/* The rows' names as ks_json_only takes them. */
static void names_of(const ks_field *fields, const char *names[MOST_KEYS + 1])
{
    int n = 0;
    for (; fields[n].name && n < MOST_KEYS; n++)
        names[n] = fields[n].name;
    names[n] = NULL;
}

/* Reads what stands for an absent key. */
static int read_fallback(const ks_field *f, void *into, ks_error *err)
{
    ks_json_doc *doc = ks_json_parse(f->name, f->fallback, strlen(f->fallback), err);
    if (!doc)
        return -1;
    int status = f->read(f, into, ks_json_root(doc), err);
    ks_json_free(doc);
    return status;
}

static int read_field(const ks_field *f, void *into, ks_json object, ks_error *err)
{
    ks_json v = ks_json_get(object, f->name);
    if (ks_json_exists(v))
        return f->read(f, into, v, err);
    if (f->missing)
        return ks_json_error(v, err, "is missing; give %s", f->missing);
    return f->fallback ? read_fallback(f, into, err) : 0;
}

int ks_fields_read(ks_json object, ks_part part, const ks_field *fields, void *into, ks_error *err)
{
    const char *names[MOST_KEYS + 1];
    names_of(fields, names);
    if (!ks_json_is_object(object))
        return ks_misfit(object, err, "an object with keys, {\"key\": value}");
    if (ks_refuse_unsupported(object, part, err) != 0 || ks_json_only(object, names, err) != 0)
        return -1;
    for (const ks_field *f = fields; f->name; f++)
        if (read_field(f, into, object, err) != 0)
            return -1;
    return 0;
}

int ks_field_double(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    double x = 0;
    bool fits = ks_json_is_number(v) && ks_json_double(v, &x, NULL) == 0 && x >= f->low &&
                x <= f->high;
    if (!fits) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "a number from %.15g to %.15g", f->low, f->high);
        return ks_misfit(v, err, f->wanted ? f->wanted : wanted);
    }
    x = x == 0 ? 0 : x; /* -0.0 is 0.0 */
    memcpy((char *)into + f->at, &x, sizeof x);
    return 0;
}

int ks_field_int(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    int64_t x = 0;
    if (ks_json_int(v, (int64_t)f->low, (int64_t)f->high, &x, NULL) != 0) {
        char wanted[80];
        snprintf(wanted, sizeof wanted, "a whole number from %.15g to %.15g", f->low, f->high);
        return ks_misfit(v, err, f->wanted ? f->wanted : wanted);
    }
    int narrow = (int)x;
    memcpy((char *)into + f->at, &narrow, sizeof narrow);
    return 0;
}

int ks_field_bool(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    bool x = false;
    if (ks_json_bool(v, &x, NULL) != 0)
        return ks_misfit(v, err, "true or false");
    memcpy((char *)into + f->at, &x, sizeof x);
    return 0;
}

int ks_field_choice(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    const char *text = NULL;
    if (ks_json_is_string(v) && ks_json_string(v, &text, err) != 0)
        return -1;
    char wanted[160] = "";
    for (const char *const *c = f->choices; *c; c++) {
        if (text && strcmp(text, *c) == 0) {
            strcpy((char *)into + f->at, *c);
            return 0;
        }
        size_t used = strlen(wanted);
        snprintf(wanted + used, sizeof wanted - used, "%s\"%s\"", used ? " or " : "", *c);
    }
    return ks_misfit(v, err, wanted);
}

/* The string of v, at least f->low bytes long; NULL when it is none. */
static const char *text_of(const ks_field *f, ks_json v, const char *wanted, ks_error *err)
{
    const char *text = NULL;
    if (!ks_json_is_string(v) || ks_json_string(v, &text, err) != 0 ||
        strlen(text) < (size_t)f->low) {
        ks_misfit(v, err, f->wanted ? f->wanted : wanted);
        return NULL;
    }
    return text;
}

int ks_field_text(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    const char *text = text_of(f, v, "a text", err);
    if (!text)
        return -1;
    char *own = ks_strdup(text);
    memcpy((char *)into + f->at, &own, sizeof own);
    return 0;
}

int ks_field_path(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    const char *text = text_of(f, v, "a path", err);
    if (!text)
        return -1;
    char *own = ks_path_beside(ks_json_name(v.doc), text);
    if (!own)
        return ks_json_error(v, err, "no memory for the path");
    memcpy((char *)into + f->at, &own, sizeof own);
    return 0;
}

/* A zeroed array of n values of the axis, owned by the struct from here on. */
static void *axis_room(const ks_field *f, void *into, int n)
{
    void *values = ks_calloc((size_t)n, f->size);
    memcpy((char *)into + f->at, &values, sizeof values);
    memcpy((char *)into + f->count, &n, sizeof n);
    return values;
}

int ks_field_axis(const ks_field *f, void *into, ks_json v, ks_error *err)
{
    if (f->range && ks_json_is_object(v))
        return f->range(f, into, v, err);
    if (!ks_json_is_array(v))
        return f->item(f, axis_room(f, into, 1), v, err);
    int n = ks_json_size(v);
    if (n == 0)
        return ks_json_error(v, err, "is an empty list; give at least one value");
    char *values = axis_room(f, into, n);
    for (int i = 0; i < n; i++)
        if (f->item(f, values + (size_t)i * f->size, ks_json_at(v, i), err) != 0)
            return -1;
    return 0;
}

int ks_item_double(const ks_field *f, void *value, ks_json v, ks_error *err)
{
    ks_field at_zero = *f;
    at_zero.at = 0;
    return ks_field_double(&at_zero, value, v, err);
}

int ks_item_int(const ks_field *f, void *value, ks_json v, ks_error *err)
{
    ks_field at_zero = *f;
    at_zero.at = 0;
    return ks_field_int(&at_zero, value, v, err);
}
