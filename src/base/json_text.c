#include "base/json_text.h"

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

enum { DEEPEST = 100, MOST_VALUES = 1 << 24, EXACT_DIGITS = 15, CJSON_NUMBER = 60 };

typedef struct scan {
    const char *name, *text;
    size_t size, at; /* of text; everything before `at` has been copied */
    char *out;
    size_t used;
    int depth, values;
    ks_error *err;
} scan;

/* "<name>:<line>:<column>: <formatted>", of the place that s is at; returns -1. */
__attribute__((format(printf, 2, 3))) static int fail(scan *s, const char *format, ...)
{
    char what[200];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    size_t line = 1, column = 1;
    for (size_t i = 0; i < s->at && i < s->size; i++) {
        if (s->text[i] == '\n') {
            line++;
            column = 1;
        } else if (((unsigned char)s->text[i] & 0xC0) != 0x80) {
            column++; /* counts characters, not bytes */
        }
    }
    return ks_error_set(s->err, "%s:%zu:%zu: %s", s->name, line, column, what);
}

/* The byte at the scan's place; 0 at the end. */
static unsigned char peek(const scan *s)
{
    return s->at < s->size ? (unsigned char)s->text[s->at] : 0;
}

/* Fails with what stands here and what is wanted. */
static int unexpected(scan *s, const char *wanted)
{
    unsigned char c = peek(s);
    if (s->at >= s->size)
        return fail(s, "the text ends where %s is wanted", wanted);
    if (c > 0x20 && c < 0x7F)
        return fail(s, "found '%c' where %s is wanted", c, wanted);
    return fail(s, "found the byte 0x%02X where %s is wanted", c, wanted);
}

static void copy(scan *s, size_t n)
{
    memcpy(s->out + s->used, s->text + s->at, n);
    s->used += n;
    s->at += n;
}

static void skip_space(scan *s)
{
    while (s->at < s->size && memchr(" \t\r\n", s->text[s->at], 4))
        s->at++;
}

static bool digit(const scan *s)
{
    return peek(s) >= '0' && peek(s) <= '9';
}

/* Unicode 15, table 3-7. */
size_t ks_utf8_sequence(const unsigned char *p, size_t room)
{
    static const struct {
        unsigned char first, last, second_low, second_high;
        size_t length;
    } form[] = {
        {0x01, 0x7F, 0, 0, 1},       {0xC2, 0xDF, 0x80, 0xBF, 2}, {0xE0, 0xE0, 0xA0, 0xBF, 3},
        {0xE1, 0xEC, 0x80, 0xBF, 3}, {0xED, 0xED, 0x80, 0x9F, 3}, {0xEE, 0xEF, 0x80, 0xBF, 3},
        {0xF0, 0xF0, 0x90, 0xBF, 4}, {0xF1, 0xF3, 0x80, 0xBF, 4}, {0xF4, 0xF4, 0x80, 0x8F, 4},
    };
    for (size_t f = 0; f < sizeof form / sizeof *form; f++) {
        if (p[0] < form[f].first || p[0] > form[f].last)
            continue;
        size_t length = form[f].length;
        if (length > room ||
            (length > 1 && (p[1] < form[f].second_low || p[1] > form[f].second_high)))
            return 0;
        for (size_t i = 2; i < length; i++)
            if ((p[i] & 0xC0) != 0x80)
                return 0;
        return length;
    }
    return 0;
}

/* The code unit of the "\uXXXX" at `at`; -1 when there is none. */
static int code_unit(const scan *s, size_t at)
{
    if (at + 6 > s->size || s->text[at] != '\\' || s->text[at + 1] != 'u')
        return -1;
    int code = 0;
    for (size_t i = at + 2; i < at + 6; i++) {
        char c = s->text[i], lower = (char)(c | 0x20);
        if (c >= '0' && c <= '9')
            code = code * 16 + (c - '0');
        else if (lower >= 'a' && lower <= 'f')
            code = code * 16 + (lower - 'a' + 10);
        else
            return -1;
    }
    return code;
}

/* A backslash and what belongs to it. Surrogates must come in pairs. */
static int escape(scan *s)
{
    if (s->at + 1 < s->size && s->text[s->at + 1] && strchr("\"\\/bfnrt", s->text[s->at + 1])) {
        copy(s, 2);
        return 0;
    }
    int code = code_unit(s, s->at);
    if (code < 0)
        return fail(s, "a backslash must be followed by one of \"\\/bfnrt or by u and 4 hex "
                       "digits");
    if (code == 0)
        return fail(s, "a text must not hold the character NUL");
    if (code >= 0xDC00 && code <= 0xDFFF)
        return fail(s, "\\u%04x is the second half of a surrogate pair without its first", code);
    if (code >= 0xD800 && code <= 0xDBFF) {
        int low = code_unit(s, s->at + 6);
        if (low < 0xDC00 || low > 0xDFFF)
            return fail(s, "\\u%04x is the first half of a surrogate pair without its second",
                        code);
        copy(s, 6);
    }
    copy(s, 6);
    return 0;
}

static int string(scan *s)
{
    copy(s, 1);
    while (peek(s) != '"') {
        if (s->at >= s->size)
            return fail(s, "the text ends inside a string");
        if (peek(s) < 0x20)
            return fail(s, "a string must not hold the raw control character 0x%02X: write \\u%04x",
                        peek(s), peek(s));
        if (peek(s) == '\\') {
            if (escape(s) != 0)
                return -1;
            continue;
        }
        size_t n = ks_utf8_sequence((const unsigned char *)s->text + s->at, s->size - s->at);
        if (n == 0)
            return fail(s, "the byte 0x%02X is not UTF-8", peek(s));
        copy(s, n);
    }
    copy(s, 1);
    return 0;
}

static void put(scan *s, const char *bytes, size_t n)
{
    memcpy(s->out + s->used, bytes, n);
    s->used += n;
}

/* The number in [begin, at) of the text goes out as it is, as a marked string, or, where it is
 * longer than cJSON reads, as the same double in 17 digits. */
static int put_number(scan *s, size_t begin, bool whole)
{
    static const char mark[] = {'"', (char)KS_JSON_DIGITS_MARK};
    const char *token = s->text + begin;
    size_t n = s->at - begin;
    if (whole) {
        bool exact = n <= EXACT_DIGITS;
        put(s, mark, exact ? 0 : 2);
        put(s, token, n);
        put(s, "\"", exact ? 0 : 1);
        return 0;
    }
    char *digits = strndup(token, n), shorter[40];
    if (!digits)
        return ks_error_set(s->err, "%s: out of memory", s->name);
    double value = strtod(digits, NULL);
    free(digits);
    if (!isfinite(value)) {
        s->at = begin;
        return fail(s, "the number is too large");
    }
    if (n > CJSON_NUMBER) {
        n = (size_t)snprintf(shorter, sizeof shorter, "%.17g", value);
        token = shorter;
    }
    put(s, token, n);
    return 0;
}

static int digits(scan *s)
{
    if (!digit(s))
        return unexpected(s, "a digit");
    while (digit(s))
        s->at++;
    return 0;
}

static int number(scan *s)
{
    size_t begin = s->at;
    bool whole = true;
    s->at += peek(s) == '-';
    if (peek(s) == '0') {
        s->at++;
        if (digit(s))
            return fail(s, "a number must not begin with 0");
    } else if (digits(s) != 0) {
        return -1;
    }
    if (peek(s) == '.') {
        whole = false;
        s->at++;
        if (digits(s) != 0)
            return -1;
    }
    if (peek(s) == 'e' || peek(s) == 'E') {
        whole = false;
        s->at++;
        s->at += peek(s) == '+' || peek(s) == '-';
        if (digits(s) != 0)
            return -1;
    }
    return put_number(s, begin, whole);
}

static int literal(scan *s)
{
    static const char *const words[] = {"true", "false", "null"};
    for (int i = 0; i < 3; i++) {
        size_t n = strlen(words[i]);
        if (s->size - s->at >= n && memcmp(s->text + s->at, words[i], n) == 0) {
            copy(s, n);
            return 0;
        }
    }
    return unexpected(s, "a value");
}

static int value(scan *s);

static int member(scan *s)
{
    skip_space(s);
    if (peek(s) != '"')
        return unexpected(s, "a key in double quotes");
    if (string(s) != 0)
        return -1;
    skip_space(s);
    if (peek(s) != ':')
        return unexpected(s, "':'");
    copy(s, 1);
    return value(s);
}

/* An array or an object: items between brackets, with commas between them. */
static int container(scan *s, char close, int (*item)(scan *s), const char *wanted)
{
    if (++s->depth > DEEPEST)
        return fail(s, "nested more than %d levels deep", DEEPEST);
    copy(s, 1);
    skip_space(s);
    if (peek(s) != close) {
        for (;;) {
            if (item(s) != 0)
                return -1;
            skip_space(s);
            if (peek(s) != ',')
                break;
            copy(s, 1);
        }
        if (peek(s) != close)
            return unexpected(s, wanted);
    }
    copy(s, 1);
    s->depth--;
    return 0;
}

static int value(scan *s)
{
    skip_space(s);
    if (++s->values > MOST_VALUES)
        return fail(s, "more than %d values", MOST_VALUES);
    switch (peek(s)) {
    case '{':
        return container(s, '}', member, "',' or '}'");
    case '[':
        return container(s, ']', value, "',' or ']'");
    case '"':
        return string(s);
    default:
        return digit(s) || peek(s) == '-' ? number(s) : literal(s);
    }
}

char *ks_json_prepare(const char *name, const char *text, size_t size, size_t *prepared,
                      ks_error *err)
{
    static const char byte_order_mark[] = "\xEF\xBB\xBF";
    scan s = {.name = name, .text = text, .size = size, .err = err};
    /* A marked number grows from 16 bytes or more by three. */
    s.out = ks_realloc(NULL, size + size / 4 + 8, 1);
    if (size >= 3 && memcmp(text, byte_order_mark, 3) == 0)
        s.at = 3;
    int status = value(&s);
    skip_space(&s);
    if (status == 0 && s.at < s.size)
        status = unexpected(&s, "the end of the text");
    if (status != 0) {
        free(s.out);
        return NULL;
    }
    s.out[s.used] = '\0';
    *prepared = s.used;
    return s.out;
}

void ks_json_write_string(FILE *out, const char *text)
{
    fputc('"', out);
    for (; *text; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\')
            fprintf(out, "\\%c", byte);
        else if (byte < 0x20)
            fprintf(out, "\\u%04x", byte);
        else
            fputc(byte, out);
    }
    fputc('"', out);
}
