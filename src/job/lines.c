#include "job/lines.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/json_text.h"
#include "job/fields.h"

static const size_t LARGEST_FILE = (size_t)4 << 30;

struct ks_lines {
    ks_json axis;
    char *path, *key; /* key: of "jsonl", else NULL */
    char *bytes;      /* the file, NUL behind it; the line read last ends with a NUL too */
    size_t size, at;
    int count, number; /* values; lines read so far, blank ones included */
    const char *text;  /* of the line read last */
    ks_json_doc *doc;  /* of it, for "jsonl" */
};

bool ks_lines_named(ks_json v)
{
    return ks_json_exists(ks_json_get(v, "lines")) || ks_json_exists(ks_json_get(v, "jsonl"));
}

int ks_lines_wrap(const ks_lines *l, ks_error *err)
{
    return ks_error_wrap(err, "%s: %s", ks_json_name(l->axis.doc), l->axis.path);
}

/* "<file>:<line>: <what>"; returns -1. */
static int fail(const ks_lines *l, const char *what, ks_error *err)
{
    return ks_error_set(err, "%s:%d: %s", l->path, l->number, what);
}

int ks_lines_misfit(const ks_lines *l, ks_error *err, const char *wanted)
{
    return ks_error_set(err, "%s:%d: \"%.60s\" does not fit; give %s", l->path, l->number, l->text,
                        wanted);
}

static bool is_blank(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (text[i] != ' ' && text[i] != '\t')
            return false;
    return true;
}

static int check_utf8(const ks_lines *l, const char *text, size_t size, ks_error *err)
{
    for (size_t i = 0, n; i < size; i += n) {
        n = ks_utf8_sequence((const unsigned char *)text + i, size - i);
        if (!n)
            return fail(l,
                        text[i] ? "is not UTF-8; save the file as UTF-8"
                                : "holds a NUL byte: this is no text file",
                        err);
    }
    return 0;
}

/* The next line that is not blank, without its end: 1; 0 at the end of the file. */
static int next_text(ks_lines *l, char **text, size_t *size, ks_error *err)
{
    while (l->at < l->size) {
        char *start = l->bytes + l->at, *end = memchr(start, '\n', l->size - l->at);
        size_t n = end ? (size_t)(end - start) : l->size - l->at;
        l->at += n + (end != NULL);
        l->number++;
        n -= n && start[n - 1] == '\r';
        if (is_blank(start, n))
            continue;
        if (n > KS_LINES_LONGEST)
            return fail(l, "is longer than 65536 bytes, the most that a line may have", err);
        *text = start;
        *size = n;
        return check_utf8(l, start, n, err) ? -1 : 1;
    }
    return 0;
}

/* Counts the values; every line is checked on the way. */
static int count(ks_lines *l, ks_error *err)
{
    char *text;
    size_t size;
    int rc;
    while ((rc = next_text(l, &text, &size, err)) > 0) {
        if (l->count++ == KS_LINES_MOST)
            return fail(l, "is one more than the 10000000 values that a file may hold", err);
    }
    if (rc == 0 && l->count == 0)
        return ks_error_set(err, "%s: holds no values: there is nothing in its lines", l->path);
    return rc;
}

/* "lines", or "jsonl" with "key". */
static int read_source(ks_lines *l, ks_json v, ks_error *err)
{
    struct {
        char *lines, *jsonl, *key;
    } s = {0};
    const ks_field fields[] = {{.name = "lines",
                                .read = ks_field_path,
                                .at = 0,
                                .low = 1,
                                .wanted = "the path of a text file with one value a line"},
                               {.name = "jsonl",
                                .read = ks_field_path,
                                .at = sizeof(char *),
                                .low = 1,
                                .wanted = "the path of a file with one JSON object a line"},
                               {.name = "key",
                                .read = ks_field_text,
                                .at = 2 * sizeof(char *),
                                .low = 1,
                                .wanted = "the key of the value in each line's object"},
                               {.name = NULL}};
    int rc = ks_fields_read(v, KS_PART_LINES, fields, &s, err);
    l->path = s.lines ? s.lines : s.jsonl;
    l->key = s.key;
    if (s.lines && s.jsonl) {
        free(s.jsonl);
        return rc ? -1
                  : ks_json_error(v, err, "has both \"lines\" and \"jsonl\"; give one of them");
    }
    if (rc)
        return -1;
    if (s.lines && s.key)
        return ks_json_error(v, err,
                             "has a \"key\" beside \"lines\", whose lines are the values; "
                             "remove it, or give \"jsonl\"");
    if (s.jsonl && !s.key)
        return ks_json_error(ks_json_get(v, "key"), err,
                             "is missing; give the key of the value in each line's object");
    return 0;
}

/* A byte order mark, as editors on Windows write it, is no part of the first line. */
static void skip_mark(ks_lines *l)
{
    if (l->size >= 3 && memcmp(l->bytes, "\xEF\xBB\xBF", 3) == 0)
        l->at = 3;
}

/* job->axis_files: a digest of the contents of all such files, in the order of the axes. */
static void add_digest(ks_job *job, const ks_lines *l)
{
    ks_hasher *h = ks_hasher_new();
    ks_hasher_add_text(h, job->axis_files);
    ks_hasher_add(h, l->bytes, l->size);
    ks_hash128 digest = ks_hasher_end(h);
    ks_hex(digest.byte, sizeof digest.byte, job->axis_files);
}

static int read_file(ks_lines *l, ks_error *err)
{
    struct stat file;
    if (!stat(l->path, &file) && !S_ISREG(file.st_mode)) /* a pipe or a device may never end */
        return ks_error_set(err, "%s: is not a plain file", l->path);
    l->bytes = ks_read_file(l->path, LARGEST_FILE, &l->size, err);
    if (!l->bytes)
        return -1;
    skip_mark(l);
    if (count(l, err))
        return -1;
    l->at = 0;
    l->number = 0;
    skip_mark(l);
    return 0;
}

ks_lines *ks_lines_open(ks_job *job, ks_json v, ks_error *err)
{
    ks_lines *l = ks_calloc(1, sizeof *l);
    l->axis = v;
    int rc = read_source(l, v, err);
    if (!rc && read_file(l, err))
        rc = ks_lines_wrap(l, err);
    if (!rc) {
        add_digest(job, l);
        return l;
    }
    ks_lines_free(l);
    return NULL;
}

void ks_lines_free(ks_lines *l)
{
    if (!l)
        return;
    ks_json_free(l->doc);
    free(l->path);
    free(l->key);
    free(l->bytes);
    free(l);
}

int ks_lines_count(const ks_lines *l)
{
    return l->count;
}

/* The object of a line, and its member. */
static int read_object(ks_lines *l, size_t size, ks_line *line, ks_error *err)
{
    char *name = ks_format("%s:%d", l->path, l->number);
    ks_error why = KS_ERROR_NONE;
    ks_json_free(l->doc);
    l->doc = ks_json_parse(name, l->text, size, &why);
    if (!l->doc) {
        size_t n = strlen(name); /* mistakes in JSON stand in its line 1, which is this line */
        n = n < strlen(why.text) ? n : 0;
        bool placed = n && !strncmp(why.text + n, ":1:", 3);
        ks_error_set(err, "%.*s%s", (int)n, why.text, why.text + n + (placed ? 2 : 0));
    }
    free(name);
    if (!l->doc)
        return -1;
    ks_json object = ks_json_root(l->doc);
    if (!ks_json_is_object(object))
        return fail(l, "is no JSON object, {\"key\": value}", err);
    line->value = ks_json_get(object, l->key);
    if (!ks_json_exists(line->value))
        return ks_error_set(err, "%s:%d: has no key \"%.60s\"", l->path, l->number, l->key);
    return 0;
}

int ks_lines_next(ks_lines *l, ks_line *line, ks_error *err)
{
    char *text = NULL;
    size_t size = 0;
    *line = (ks_line){0};
    int rc = next_text(l, &text, &size, err);
    if (rc <= 0)
        return rc ? ks_lines_wrap(l, err) : fail(l, "is the last line", err);
    text[size] = 0; /* the place of the line's end, or of the NUL behind the file */
    l->text = text;
    if (l->key)
        return read_object(l, size, line, err) ? ks_lines_wrap(l, err) : 0;
    line->text = text;
    return 0;
}
