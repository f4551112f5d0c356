#include "base/json.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json_text.h"
#include "base/nearest.h"

enum { INDEXED = 16, FILE_LIMIT = 256 << 20 };

static const double exact_limit = 9007199254740992.0; /* 2^53 */

/* The children of an array or object with more than INDEXED of them (cJSON's lists are slow). */
typedef struct container {
    const cJSON *item;
    const cJSON **child;  /* as they stand in the text */
    const cJSON **by_key; /* objects: ordered by key; NULL for arrays */
    int count;
} container;

struct ks_json_doc {
    char *name;
    cJSON *root;
    container *containers; /* ordered by the address of item */
    size_t count, room;
};

/* --- values that are kept digit by digit --- */

/* The digits of a whole number that is kept as text; NULL for every other value. */
static const char *digits_of(ks_json v)
{
    if (!v.item || !cJSON_IsString(v.item))
        return NULL;
    const char *text = v.item->valuestring;
    return (unsigned char)text[0] == KS_JSON_DIGITS_MARK ? text + 1 : NULL;
}

/* --- the index --- */

static int compare_keys(const void *a, const void *b)
{
    const cJSON *const *left = a, *const *right = b;
    return strcmp((*left)->string, (*right)->string);
}

static int compare_containers(const void *a, const void *b)
{
    const container *left = a, *right = b;
    return (left->item > right->item) - (left->item < right->item);
}

static const container *container_of(ks_json v)
{
    if (v.doc->count == 0)
        return NULL;
    container key = {.item = v.item};
    return bsearch(&key, v.doc->containers, v.doc->count, sizeof key, compare_containers);
}

static void add_container(ks_json_doc *doc, const cJSON *item, int count)
{
    if (doc->count == doc->room) {
        doc->room = doc->room ? 2 * doc->room : 8;
        doc->containers = ks_realloc(doc->containers, doc->room, sizeof *doc->containers);
    }
    container *c = &doc->containers[doc->count++];
    *c = (container){.item = item, .count = count};
    c->child = ks_calloc((size_t)count, sizeof *c->child);
    int i = 0;
    for (const cJSON *child = item->child; child; child = child->next)
        c->child[i++] = child;
    if (!cJSON_IsObject(item))
        return;
    c->by_key = ks_calloc((size_t)count, sizeof *c->by_key);
    memcpy(c->by_key, c->child, (size_t)count * sizeof *c->by_key);
    qsort(c->by_key, (size_t)count, sizeof *c->by_key, compare_keys);
}

/* The key that stands twice in a short object; NULL when there is none. */
static const char *repeated_in_list(const cJSON *object)
{
    for (const cJSON *a = object->child; a; a = a->next)
        for (const cJSON *b = a->next; b; b = b->next)
            if (strcmp(a->string, b->string) == 0)
                return a->string;
    return NULL;
}

static const char *repeated_in_index(const container *c)
{
    for (int i = 1; c->by_key && i < c->count; i++)
        if (strcmp(c->by_key[i - 1]->string, c->by_key[i]->string) == 0)
            return c->by_key[i]->string;
    return NULL;
}

/* Indexes item and what it holds. Returns an object with a repeated key, and the key; NULL when all
 * is well. Recursion is as deep as the text is nested, which ks_json_prepare limits. */
static const cJSON *index_items(ks_json_doc *doc, const cJSON *item, const char **repeated)
{
    int count = 0;
    for (const cJSON *child = item->child; child; child = child->next, count++) {
        const cJSON *bad = child->child ? index_items(doc, child, repeated) : NULL;
        if (bad)
            return bad;
    }
    if (count > INDEXED) {
        add_container(doc, item, count);
        *repeated = repeated_in_index(&doc->containers[doc->count - 1]);
    } else {
        *repeated = cJSON_IsObject(item) ? repeated_in_list(item) : NULL;
    }
    return *repeated ? item : NULL;
}

/* --- moving about --- */

__attribute__((format(printf, 2, 3))) static void extend_path(ks_json *v, const char *format, ...)
{
    size_t used = strlen(v->path);
    va_list args;
    va_start(args, format);
    vsnprintf(v->path + used, sizeof v->path - used, format, args);
    va_end(args);
}

/* The child of v: its path grows by the child's key, or by its index. */
static ks_json step(ks_json v, const cJSON *child, const char *key, int index)
{
    v.item = child;
    if (key)
        extend_path(&v, "%s%s", v.path[0] ? "." : "", key);
    else
        extend_path(&v, "[%d]", index);
    return v;
}

/* Finds the value at item below v. */
static bool locate(ks_json v, const cJSON *item, ks_json *found)
{
    int index = 0;
    *found = v;
    if (v.item == item)
        return true;
    for (const cJSON *child = v.item->child; child; child = child->next)
        if (locate(step(v, child, child->string, index++), item, found))
            return true;
    return false;
}

ks_json ks_json_root(const ks_json_doc *doc)
{
    return (ks_json){.doc = doc, .item = doc->root};
}

const char *ks_json_name(const ks_json_doc *doc)
{
    return doc->name;
}

static const cJSON *child_at(ks_json v, int index)
{
    const container *c = container_of(v);
    if (index < 0)
        return NULL;
    if (c)
        return index < c->count ? c->child[index] : NULL;
    const cJSON *child = v.item->child;
    while (child && index-- > 0)
        child = child->next;
    return child;
}

ks_json ks_json_at(ks_json array, int index)
{
    return step(array, ks_json_is_array(array) ? child_at(array, index) : NULL, NULL, index);
}

static const cJSON *child_named(ks_json v, const char *key)
{
    const container *c = container_of(v);
    if (!c)
        return cJSON_GetObjectItemCaseSensitive(v.item, key);
    size_t low = 0, high = (size_t)c->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        int order = strcmp(key, c->by_key[middle]->string);
        if (order == 0)
            return c->by_key[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

ks_json ks_json_get(ks_json object, const char *key)
{
    return step(object, ks_json_is_object(object) ? child_named(object, key) : NULL, key, 0);
}

ks_json ks_json_member(ks_json object, int index, const char **key)
{
    const cJSON *child = ks_json_is_object(object) ? child_at(object, index) : NULL;
    const char *name = child ? child->string : "";
    if (key)
        *key = name;
    return step(object, child, name, 0);
}

int ks_json_size(ks_json v)
{
    if (!ks_json_is_array(v) && !ks_json_is_object(v))
        return 0;
    const container *c = container_of(v);
    return c ? c->count : cJSON_GetArraySize(v.item);
}

/* --- kinds --- */

bool ks_json_exists(ks_json v)
{
    return v.item != NULL;
}

bool ks_json_is_object(ks_json v)
{
    return v.item && cJSON_IsObject(v.item);
}

bool ks_json_is_array(ks_json v)
{
    return v.item && cJSON_IsArray(v.item);
}

bool ks_json_is_string(ks_json v)
{
    return v.item && cJSON_IsString(v.item) && !digits_of(v);
}

bool ks_json_is_number(ks_json v)
{
    return v.item && (cJSON_IsNumber(v.item) || digits_of(v));
}

/* --- documents --- */

static int index_document(ks_json_doc *doc, ks_error *err)
{
    const char *repeated = NULL;
    const cJSON *bad = index_items(doc, doc->root, &repeated);
    if (doc->count > 0)
        qsort(doc->containers, doc->count, sizeof *doc->containers, compare_containers);
    if (!bad)
        return 0;
    ks_json object;
    locate(ks_json_root(doc), bad, &object);
    return ks_json_error(object, err, "the key \"%s\" stands twice in one object", repeated);
}

ks_json_doc *ks_json_parse(const char *name, const char *text, size_t size, ks_error *err)
{
    size_t prepared;
    char *strict = ks_json_prepare(name, text, size, &prepared, err);
    if (!strict)
        return NULL;
    ks_json_doc *doc = ks_calloc(1, sizeof *doc);
    doc->name = ks_strdup(name);
    doc->root = cJSON_ParseWithLength(strict, prepared);
    free(strict);
    int status = doc->root ? index_document(doc, err)
                           : ks_error_set(err, "%s: not enough memory to read it", name);
    if (status != 0) {
        ks_json_free(doc);
        return NULL;
    }
    return doc;
}

ks_json_doc *ks_json_read(const char *file, ks_error *err)
{
    size_t size;
    char *text = ks_read_file(file, FILE_LIMIT, &size, err);
    if (!text)
        return NULL;
    ks_json_doc *doc = ks_json_parse(file, text, size, err);
    free(text);
    return doc;
}

void ks_json_free(ks_json_doc *doc)
{
    if (!doc)
        return;
    for (size_t i = 0; i < doc->count; i++) {
        free(doc->containers[i].child);
        free(doc->containers[i].by_key);
    }
    free(doc->containers);
    cJSON_Delete(doc->root);
    free(doc->name);
    free(doc);
}

/* Takes the quotes and the mark off every number that was kept as a string. */
static void unmark_numbers(char *text)
{
    char *to = text;
    for (const char *from = text; *from;) {
        if (from[0] != '"' || (unsigned char)from[1] != KS_JSON_DIGITS_MARK) {
            *to++ = *from++;
            continue;
        }
        for (from += 2; *from != '"'; from++)
            *to++ = *from;
        from++;
    }
    *to = '\0';
}

char *ks_json_print(ks_json v)
{
    char *text = v.item ? cJSON_PrintUnformatted(v.item) : NULL;
    if (text)
        unmark_numbers(text);
    return text;
}

/* --- complaints --- */

int ks_json_error(ks_json v, ks_error *err, const char *format, ...)
{
    if (!err)
        return -1;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (v.path[0])
        ks_error_wrap(err, "%s", v.path);
    ks_error_wrap(err, "%s", v.doc->name);
    for (char *c = err->text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = '?'; /* keys and texts of a file may hold newlines; a message is one line */
    return -1;
}

typedef struct words {
    char text[96];
} words;

static const char *literal(const cJSON *item)
{
    if (cJSON_IsNull(item))
        return "null";
    return cJSON_IsTrue(item) ? "true" : "false";
}

/* What v is, in words: `the text "abc"`, "an array", "nothing". Long texts are cut. */
static words describe(ks_json v)
{
    enum { SHOWN = 40 };
    words w;
    const char *text = digits_of(v);
    if (!v.item)
        snprintf(w.text, sizeof w.text, "nothing");
    else if (text)
        snprintf(w.text, sizeof w.text, "%.40s%s", text, strlen(text) > SHOWN ? "..." : "");
    else if (cJSON_IsNumber(v.item))
        snprintf(w.text, sizeof w.text, "%.15g", v.item->valuedouble);
    else if (cJSON_IsArray(v.item) || cJSON_IsObject(v.item))
        snprintf(w.text, sizeof w.text, cJSON_IsArray(v.item) ? "a list" : "an object");
    else if (!cJSON_IsString(v.item))
        snprintf(w.text, sizeof w.text, "%s", literal(v.item));
    else {
        size_t n = strnlen(v.item->valuestring, SHOWN);
        while (n > 0 && ((unsigned char)v.item->valuestring[n] & 0xC0) == 0x80)
            n--; /* not inside a character */
        snprintf(w.text, sizeof w.text, "the text \"%.*s%s\"", (int)n, v.item->valuestring,
                 v.item->valuestring[n] ? "..." : "");
    }
    return w;
}

/* "found X; wanted Y"; returns -1. */
static int wanted(ks_json v, ks_error *err, const char *what)
{
    if (!v.item)
        return ks_json_error(v, err, "is missing; wanted %s", what);
    return ks_json_error(v, err, "found %s; wanted %s", describe(v).text, what);
}

/* --- values --- */

int ks_json_double(ks_json v, double *out, ks_error *err)
{
    const char *digits = digits_of(v);
    if (!ks_json_is_number(v))
        return wanted(v, err, "a number");
    double value = digits ? strtod(digits, NULL) : v.item->valuedouble;
    if (!isfinite(value))
        return wanted(v, err, "a number that a double can hold");
    *out = value;
    return 0;
}

/* The value as int64_t; false when it is no whole number or does not fit. */
static bool whole(ks_json v, int64_t *out)
{
    const char *digits = digits_of(v);
    if (digits) {
        errno = 0;
        *out = strtoll(digits, NULL, 10);
        return errno == 0;
    }
    double value = v.item->valuedouble;
    if (floor(value) != value || fabs(value) > exact_limit)
        return false;
    *out = (int64_t)value;
    return true;
}

int ks_json_int(ks_json v, int64_t low, int64_t high, int64_t *out, ks_error *err)
{
    int64_t value = 0;
    if (ks_json_is_number(v) && whole(v, &value) && value >= low && value <= high) {
        *out = value;
        return 0;
    }
    char what[80];
    snprintf(what, sizeof what, "a whole number from %lld to %lld", (long long)low,
             (long long)high);
    return wanted(v, err, what);
}

/* A plain decimal of 0..2^64-1; false when text is anything else. */
static bool decimal_u64(const char *text, uint64_t *out)
{
    uint64_t value = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, (uint64_t)(*text - '0'), &value))
            return false;
    }
    *out = value;
    return true;
}

int ks_json_u64(ks_json v, uint64_t *out, ks_error *err)
{
    const char *digits = digits_of(v);
    int64_t value = 0;
    if (!digits && ks_json_is_string(v))
        digits = v.item->valuestring;
    if (digits && decimal_u64(digits, out))
        return 0;
    if (!digits && ks_json_is_number(v) && whole(v, &value) && value >= 0) {
        *out = (uint64_t)value;
        return 0;
    }
    return wanted(v, err, "a whole number from 0 to 18446744073709551615 in plain digits");
}

int ks_json_bool(ks_json v, bool *out, ks_error *err)
{
    if (!v.item || !cJSON_IsBool(v.item))
        return wanted(v, err, "true or false");
    *out = cJSON_IsTrue(v.item);
    return 0;
}

int ks_json_string(ks_json v, const char **out, ks_error *err)
{
    if (!ks_json_is_string(v))
        return wanted(v, err, "a text");
    *out = v.item->valuestring;
    return 0;
}

/* "a, b, c" of a list that ends with NULL, cut to fit. */
static void join(const char *const *names, char *out, size_t room)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; names[i] && used + 1 < room; i++) {
        int n = snprintf(out + used, room - used, "%s%s", i ? ", " : "", names[i]);
        used += n > 0 ? (size_t)n : 0;
    }
}

int ks_json_only(ks_json object, const char *const *allowed, ks_error *err)
{
    size_t count = 0;
    while (allowed[count])
        count++;
    if (!ks_json_is_object(object))
        return wanted(object, err, "an object");
    for (const cJSON *child = object.item->child; child; child = child->next) {
        size_t i = 0;
        while (i < count && strcmp(child->string, allowed[i]) != 0)
            i++;
        if (i < count)
            continue;
        const char *nearest = ks_nearest(child->string, allowed, count);
        if (nearest)
            return ks_json_error(object, err, "unknown key \"%.80s\"; did you mean \"%s\"?",
                                 child->string, nearest);
        char known[600];
        join(allowed, known, sizeof known);
        return ks_json_error(object, err, "unknown key \"%.80s\"; known here: %s", child->string,
                             known);
    }
    return 0;
}
