#include "model/clip_text.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "base/file.h"

const char ks_clip_start[] = "<|startoftext|>", ks_clip_end[] = "<|endoftext|>";

/* --- lower case --- */

enum { CAPITAL_SIGMA = 0x3A3, SMALL_SIGMA = 0x3C3, FINAL_SIGMA = 0x3C2 };
enum { CAPITAL_I_DOT = 0x130, DOT_ABOVE = 0x307 };

static bool cased(utf8proc_int32_t c)
{
    utf8proc_category_t category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
           category == UTF8PROC_CATEGORY_LT;
}

/* What may stand between a sigma and the letters of its word without counting (Case_Ignorable). */
static bool ignored_by_case(utf8proc_int32_t c)
{
    static const utf8proc_int32_t marks[] = {'\'', '.', ':', 0xB7, 0x2018, 0x2019, 0x2024, 0x2027};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (marks[i] == c)
            return true;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return false;
    }
}

/* Final_Sigma (Unicode, table 3-17): a cased letter goes before, and none follows. */
static bool sigma_is_final(const utf8proc_int32_t *point, size_t count, size_t at)
{
    size_t before = at, behind = at + 1;
    while (before > 0 && ignored_by_case(point[before - 1]))
        before--;
    while (behind < count && ignored_by_case(point[behind]))
        behind++;
    return before > 0 && cased(point[before - 1]) && (behind == count || !cased(point[behind]));
}

/* The two characters whose lower case is not one character, or not always the same (SpecialCasing):
 * all others have a simple mapping. Returns the characters written to out. */
static size_t lower(const utf8proc_int32_t *point, size_t count, size_t at, utf8proc_int32_t out[2])
{
    switch (point[at]) {
    case CAPITAL_I_DOT:
        out[0] = 'i';
        out[1] = DOT_ABOVE;
        return 2;
    case CAPITAL_SIGMA:
        out[0] = sigma_is_final(point, count, at) ? FINAL_SIGMA : SMALL_SIGMA;
        return 1;
    default:
        out[0] = utf8proc_tolower(point[at]);
        return 1;
    }
}

/* A valid UTF-8 text of size bytes as code points. */
static utf8proc_int32_t *decode(const char *text, size_t size, size_t *count)
{
    utf8proc_int32_t *point = ks_calloc(size, sizeof *point);
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    *count = 0;
    for (size_t at = 0; at < size;) {
        utf8proc_ssize_t n =
            utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(size - at), &point[*count]);
        if (n <= 0)
            break;
        at += (size_t)n;
        (*count)++;
    }
    return point;
}

static char *lower_text(const char *text)
{
    size_t count, used = 0;
    utf8proc_int32_t *point = decode(text, strlen(text), &count), low[2];
    char *out = ks_calloc(2 * count + 1, 4);
    for (size_t i = 0; i < count; i++) {
        size_t n = lower(point, count, i, low);
        for (size_t k = 0; k < n; k++)
            used += (size_t)utf8proc_encode_char(low[k], (utf8proc_uint8_t *)out + used);
    }
    out[used] = '\0';
    free(point);
    return out;
}

char *ks_clip_normalise(const char *text, ks_error *err)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t size = utf8proc_map((const utf8proc_uint8_t *)text, 0, &composed,
                                         UTF8PROC_NULLTERM | UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (size < 0) {
        ks_error_set(err, "a text of %zu bytes cannot be tokenised: %s", strlen(text),
                     utf8proc_errmsg(size));
        return NULL;
    }
    char *lowered = lower_text((const char *)composed);
    free(composed);
    return lowered;
}

/* --- words --- */

typedef enum kind { SPACE, LETTER, DIGIT, OTHER } kind;

static kind kind_of(utf8proc_int32_t c)
{
    const utf8proc_property_t *p = utf8proc_get_property(c);
    switch (p->category) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
        return LETTER;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
        return DIGIT;
    case UTF8PROC_CATEGORY_ZS:
        return SPACE;
    default:
        return p->bidi_class == UTF8PROC_BIDI_CLASS_WS || p->bidi_class == UTF8PROC_BIDI_CLASS_B ||
                       p->bidi_class == UTF8PROC_BIDI_CLASS_S
                   ? SPACE
                   : OTHER;
    }
}

/* Bytes of the fixed word that text begins with; 0 when there is none. */
static size_t fixed_word(const char *text)
{
    static const char *const words[] = {ks_clip_start, ks_clip_end, "'s",  "'t", "'re",
                                        "'ve",         "'m",        "'ll", "'d"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strncmp(text, words[i], strlen(words[i])) == 0)
            return strlen(words[i]);
    return 0;
}

/* The kind of the character that text begins with, its bytes in *n; *n is 0 at the end. */
static kind next_kind(const char *text, size_t *n)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t bytes = *text ? utf8proc_iterate((const utf8proc_uint8_t *)text, -1, &c) : 0;
    *n = bytes > 0 ? (size_t)bytes : 0;
    return *n ? kind_of(c) : SPACE;
}

size_t ks_clip_word(const char *text, size_t *at)
{
    size_t n, length;
    kind first = next_kind(text + *at, &n);
    while (n > 0 && first == SPACE) {
        *at += n;
        first = next_kind(text + *at, &n);
    }
    size_t fixed = fixed_word(text + *at);
    if (fixed > 0)
        return fixed;
    for (length = n; n > 0 && first != DIGIT; length += n)
        if (next_kind(text + *at + length, &n) != first || n == 0)
            break;
    return length;
}
