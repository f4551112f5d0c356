/* A prompt's emphasis and its blocks of tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/text.h"

/* A stretch of the text with one emphasis. */
typedef struct run {
    const char *begin, *end;
    double weight;
} run;

typedef struct runs {
    run *item;
    int count, capacity;
} runs;

static int add_run(runs *list, run r, ks_error *err)
{
    if (list->count == list->capacity) {
        int capacity = list->capacity ? 2 * list->capacity : 16;
        run *item = realloc(list->item, (size_t)capacity * sizeof *item);
        if (!item)
            return ks_error_set(err, "no memory for a prompt");
        list->item = item;
        list->capacity = capacity;
    }
    list->item[list->count++] = r;
    return 0;
}

/* Whether the character at s is a backslash that takes a bracket's meaning. */
static bool escapes(const char *s, const char *end)
{
    return *s == '\\' && s + 1 < end && (s[1] == '(' || s[1] == ')');
}

/* The end of the piece that begins at s: up to a bracket that opens outside all others, or, where s
 * is such a bracket, behind the one that closes it (or the end, where none does). *depth is the
 * number of open brackets before and after; a stray closing bracket makes it negative. */
static const char *piece_end(const char *s, const char *end, int *depth)
{
    for (const char *at = s; at < end; at++) {
        if (escapes(at, end)) {
            at++;
        } else if (*at == '(') {
            if (*depth == 0 && at > s)
                return at;
            ++*depth;
        } else if (*at == ')') {
            if (--*depth == 0)
                return at + 1;
        }
    }
    return end;
}

/* The number behind the last colon of a bracket's inside, where there is one: then *end is moved to
 * the colon. */
static void read_weight(const char *begin, const char **end, double *weight)
{
    char text[64];
    const char *colon = memrchr(begin, ':', (size_t)(*end - begin));
    if (!colon || colon == begin || *end - colon > (ptrdiff_t)sizeof text)
        return;
    size_t size = (size_t)(*end - colon - 1);
    memcpy(text, colon + 1, size);
    text[size] = '\0';
    char *rest;
    double value = strtod(text, &rest);
    if (rest == text || rest[strspn(rest, " \t\n")] != '\0' || !isfinite(value))
        return;
    *weight = value;
    *end = colon;
}

/* Splits a text into runs, brackets inside brackets by recursion. */
static int split(runs *list, const char *begin, const char *end, double weight, ks_error *err)
{
    int depth = 0;
    for (const char *s = begin; s < end;) {
        const char *next = piece_end(s, end, &depth);
        if (next - s >= 2 && *s == '(' && next[-1] == ')') {
            double inner = weight * 1.1;
            const char *inner_end = next - 1;
            read_weight(s + 1, &inner_end, &inner);
            if (split(list, s + 1, inner_end, inner, err) != 0)
                return -1;
        } else if (add_run(list, (run){s, next, weight}, err) != 0) {
            return -1;
        }
        s = next;
    }
    return 0;
}

/* The run's text with \( and \) as brackets; free() it. */
static char *plain_text(const run *r, ks_error *err)
{
    char *text = malloc((size_t)(r->end - r->begin) + 1), *out = text;
    if (!text) {
        ks_error_set(err, "no memory for a prompt");
        return NULL;
    }
    for (const char *s = r->begin; s < r->end; s++) {
        if (escapes(s, r->end))
            s++;
        *out++ = *s;
    }
    *out = '\0';
    return text;
}

/* One more block, all padding but for its start; -1 without memory. */
static int new_block(ks_prompt *p, const ks_tokenizer *tokenizer, ks_error *err)
{
    size_t old = (size_t)p->blocks * (size_t)p->tokens, count = old + (size_t)p->tokens;
    int32_t *id = realloc(p->id, count * sizeof *id);
    if (id)
        p->id = id;
    float *weight = realloc(p->weight, count * sizeof *weight);
    if (weight)
        p->weight = weight;
    if (!id || !weight)
        return ks_error_set(err, "no memory for a prompt of %d blocks", p->blocks + 1);
    for (size_t i = old; i < count; i++) {
        id[i] = ks_tokenizer_end(tokenizer);
        weight[i] = 1;
    }
    id[old] = ks_tokenizer_start(tokenizer);
    p->blocks++;
    return 0;
}

/* Ids below this number stay together. */
enum { SHORT_RUN = 8 };

/* Puts a run's ids behind *used tokens of the last block, and into new ones. */
static int place(ks_prompt *p, const ks_tokenizer *tokenizer, const int32_t *id, int count,
                 double weight, int *used, ks_error *err)
{
    int room = p->tokens - 1;
    bool together = count < SHORT_RUN && count < room;
    for (int done = 0; done < count;) {
        int left = room - *used, take = count - done < left ? count - done : left;
        if (take < count - done && together)
            take = 0;
        size_t at = (size_t)(p->blocks - 1) * (size_t)p->tokens + (size_t)*used;
        for (int i = 0; i < take; i++) {
            p->id[at + (size_t)i] = id[done + i];
            p->weight[at + (size_t)i] = (float)weight;
        }
        done += take;
        *used += take;
        if (done < count) {
            if (new_block(p, tokenizer, err) != 0)
                return -1;
            *used = 1;
        }
    }
    if (count > 0 && (float)weight != 1)
        p->emphasised = true;
    return 0;
}

int ks_prompt_make(ks_prompt *p, const ks_tokenizer *tokenizer, const char *text, int tokens,
                   ks_error *err)
{
    runs list = {0};
    *p = (ks_prompt){.tokens = tokens};
    int used = 1, result = -1;
    if (tokens < 3) {
        ks_error_set(err, "a text model of %d tokens has no room for a word", tokens);
        goto cleanup;
    }
    if (split(&list, text, text + strlen(text), 1, err) != 0 || new_block(p, tokenizer, err) != 0)
        goto cleanup;
    for (int i = 0; i < list.count; i++) {
        int32_t *id = NULL;
        int count = 0;
        char *plain = plain_text(&list.item[i], err);
        int failed = !plain || ks_tokenizer_encode(tokenizer, plain, &id, &count, err) != 0 ||
                     place(p, tokenizer, id, count, list.item[i].weight, &used, err) != 0;
        free(plain);
        free(id);
        if (failed)
            goto cleanup;
    }
    result = 0;
cleanup:
    free(list.item);
    return result;
}

void ks_prompt_free(ks_prompt *p)
{
    free(p->id);
    free(p->weight);
    *p = (ks_prompt){0};
}
