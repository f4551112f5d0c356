#include "job/set.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json_text.h"

enum { DEEPEST = 64 }; /* a job file needs five */

/* One change, written out as the text of the whole document: numbers of any size stay as they
 * are. */
typedef struct change {
    FILE *out;
    const char *set;   /* "PATH=VALUE", for messages */
    const char *end;   /* of the path: the '=' */
    const char *value; /* JSON */
    ks_error *err;
} change;

/* "<file>: --set <set>: <what>"; returns -1. */
static int fail(const change *c, ks_json v, const char *what)
{
    const char *at = v.path[0] ? v.path : "the job";
    return ks_error_set(c->err, "%s: --set %.120s: %s %s", ks_json_name(v.doc), c->set, at, what);
}

static int write_plain(const change *c, ks_json v)
{
    char *text = ks_json_print(v);
    if (!text)
        return fail(c, v, "does not fit into memory");
    fputs(text, c->out);
    free(text);
    return 0;
}

static int write_changed(const change *c, ks_json v, const char *rest);

/* A list, with the change somewhere in item `place`; rest follows the "]". */
static int write_list(const change *c, ks_json list, long place, const char *rest)
{
    if (!ks_json_is_array(list))
        return fail(c, list, ks_json_exists(list) ? "is no list" : "is missing; set a whole list");
    int size = ks_json_size(list);
    if (place > size)
        return fail(c, list, "is shorter; the place behind its last item appends one");
    fputc('[', c->out);
    for (int i = 0; i < size || i == place; i++) {
        ks_json item = ks_json_at(list, i);
        fputs(i ? "," : "", c->out);
        if ((i == place ? write_changed(c, item, rest) : write_plain(c, item)) != 0)
            return -1;
    }
    fputc(']', c->out);
    return 0;
}

/* An object (or what is missing, as one), with the change in the member of this key. */
static int write_object(const change *c, ks_json object, const char *key, const char *rest)
{
    if (ks_json_exists(object) && !ks_json_is_object(object))
        return fail(c, object, "is no object with keys");
    int size = ks_json_size(object), i = 0;
    fputc('{', c->out);
    for (; i < size; i++) {
        const char *name;
        ks_json member = ks_json_member(object, i, &name);
        fputs(i ? "," : "", c->out);
        ks_json_write_string(c->out, name);
        fputc(':', c->out);
        if ((strcmp(name, key) == 0 ? write_changed(c, member, rest) : write_plain(c, member)) != 0)
            return -1;
    }
    if (!ks_json_exists(ks_json_get(object, key))) {
        fputs(i ? "," : "", c->out);
        ks_json_write_string(c->out, key);
        fputc(':', c->out);
        if (write_changed(c, ks_json_get(object, key), rest) != 0)
            return -1;
    }
    fputc('}', c->out);
    return 0;
}

/* v with the change at rest, which is "" (here), "[2]..." or "key...". */
static int write_changed(const change *c, ks_json v, const char *rest)
{
    if (rest == c->end) {
        fputs(c->value, c->out);
        return 0;
    }
    if (*rest == '[') {
        char *end;
        errno = 0;
        long place = strtol(rest + 1, &end, 10);
        if (rest[1] < '0' || rest[1] > '9' || *end != ']' || errno)
            return fail(c, v, "has a place that is no number: write [0], [1], ...");
        return write_list(c, v, place, end + 1);
    }
    if (v.path[0] && *rest != '.')
        return fail(c, v, "is followed by neither a key, as in a.b, nor a place, as in a[0]");
    rest += v.path[0] != '\0';
    size_t length = strcspn(rest, ".[=");
    if (length == 0)
        return fail(c, v, "has an empty key; write PATH=VALUE, as in cfg=7 or output.file=out.h5");
    char *key = strndup(rest, length);
    int status = key ? write_object(c, v, key, rest + length) : fail(c, v, "needs more memory");
    free(key);
    return status;
}

/* Keys and places in the path. */
static int depth_of(const char *path, const char *end)
{
    int depth = 1;
    for (; path < end; path++)
        depth += *path == '.' || *path == '[';
    return depth;
}

/* VALUE as JSON text; free() it. */
static char *json_of(const char *value)
{
    ks_json_doc *doc = ks_json_parse("VALUE", value, strlen(value), NULL);
    if (doc) {
        ks_json_free(doc);
        return ks_strdup(value);
    }
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    ks_json_write_string(out, value);
    fclose(out);
    return text;
}

ks_json_doc *ks_job_apply_set(const ks_json_doc *doc, const char *set, ks_error *err)
{
    const char *equals = strchr(set, '=');
    if (!equals || equals == set) {
        ks_error_set(err, "--set %.120s: give PATH=VALUE, as in cfg=7 or output.file=out.h5", set);
        return NULL;
    }
    if (depth_of(set, equals) > DEEPEST) {
        ks_error_set(err, "--set %.120s...: the path is too long; give at most %d keys and places",
                     set, DEEPEST);
        return NULL;
    }
    char *value = json_of(equals + 1), *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    ks_json_doc *changed = NULL;
    if (!value || !out) {
        ks_error_set(err, "--set %.120s: out of memory", set);
        goto cleanup;
    }
    change c = {out, set, equals, value, err};
    int status = write_changed(&c, ks_json_root(doc), set);
    fclose(out);
    out = NULL;
    if (status == 0)
        changed = ks_json_parse(ks_json_name(doc), text, size, err);
cleanup:
    if (out)
        fclose(out);
    free(text);
    free(value);
    return changed;
}
