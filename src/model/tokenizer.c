#include "model/tokenizer.h"

#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/json.h"
#include "model/clip_text.h"

enum { FILE_LIMIT = 64 << 20, TEXT_LIMIT = 1 << 20, BYTES = 256 };

/* Tokens left and right, side by side, become the token `joined`. Lower ranks go first. */
typedef struct merge {
    int32_t left, right, joined;
    int rank; /* its line, counted from 0 */
} merge;

struct ks_tokenizer {
    int vocab;
    int32_t start, end;
    int32_t byte[BYTES], last_byte[BYTES]; /* ids of a byte, and of a byte that ends a word */
    merge *merges;                         /* ordered by (left, right) */
    int count;
};

/* --- the vocabulary while it is read --- */

typedef struct entry {
    const char *token;
    int32_t id;
} entry;

typedef struct vocabulary {
    ks_json_doc *doc; /* owns the tokens' texts */
    entry *entries;   /* ordered by token */
    int count;
} vocabulary;

static int compare_entries(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->token, ((const entry *)b)->token);
}

/* -1 when the vocabulary has no such token. */
static int32_t find_token(const vocabulary *v, const char *token)
{
    entry key = {.token = token};
    const entry *found = bsearch(&key, v->entries, (size_t)v->count, sizeof key, compare_entries);
    return found ? found->id : -1;
}

static void vocabulary_close(vocabulary *v)
{
    free(v->entries);
    ks_json_free(v->doc);
}

/* Every id from 0 to count - 1 must belong to one token. */
static int read_entries(vocabulary *v, ks_json root, ks_error *err)
{
    const char *key;
    int status = 0;
    bool *taken = ks_calloc((size_t)v->count, sizeof *taken);
    for (int i = 0; i < v->count && status == 0; i++) {
        int64_t id;
        ks_json value = ks_json_member(root, i, &key);
        status = ks_json_int(value, 0, v->count - 1, &id, err);
        if (status == 0 && taken[id])
            status = ks_json_error(value, err, "the id %lld belongs to another token already",
                                   (long long)id);
        if (status == 0) {
            taken[id] = true;
            v->entries[i] = (entry){key, (int32_t)id};
        }
    }
    free(taken);
    return status;
}

static int vocabulary_open(vocabulary *v, const char *path, ks_error *err)
{
    *v = (vocabulary){0};
    v->doc = ks_json_read(path, err);
    if (!v->doc)
        return -1;
    ks_json root = ks_json_root(v->doc);
    if (!ks_json_is_object(root))
        return ks_json_error(root, err, "wanted an object of tokens and their ids");
    v->count = ks_json_size(root);
    v->entries = ks_calloc((size_t)v->count, sizeof *v->entries);
    if (read_entries(v, root, err) != 0)
        return -1;
    qsort(v->entries, (size_t)v->count, sizeof *v->entries, compare_entries);
    return 0;
}

/* --- bytes --- */

/* The character that stands for a byte in the two files: printable Latin-1 stands for itself, the
 * 68 others, in order, for the characters from 256 on. */
static int byte_character(int byte)
{
    int below = 0;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
        if (b == byte)
            return printable ? byte : BYTES + below;
        below += !printable;
    }
    return -1;
}

/* The character in UTF-8, and suffix behind it. */
static void byte_token(int byte, const char *suffix, char out[16])
{
    int c = byte_character(byte), n = 0;
    if (c >= 0x80)
        out[n++] = (char)(0xC0 | c >> 6);
    out[n++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3F) : c);
    strcpy(out + n, suffix);
}

static int require_token(const vocabulary *v, const char *token, int32_t *id, ks_error *err)
{
    *id = find_token(v, token);
    if (*id < 0)
        return ks_error_set(err, "%s: has no token \"%s\", which CLIP's tokenizer needs",
                            ks_json_name(v->doc), token);
    return 0;
}

static int read_bytes(ks_tokenizer *t, const vocabulary *v, ks_error *err)
{
    char token[16];
    for (int b = 0; b < BYTES; b++) {
        byte_token(b, "", token);
        if (require_token(v, token, &t->byte[b], err) != 0)
            return -1;
        byte_token(b, "</w>", token);
        if (require_token(v, token, &t->last_byte[b], err) != 0)
            return -1;
    }
    if (require_token(v, ks_clip_start, &t->start, err) != 0)
        return -1;
    return require_token(v, ks_clip_end, &t->end, err);
}

/* --- merges --- */

typedef struct merge_file {
    const char *path;
    const vocabulary *vocab;
    char *joined; /* scratch, as long as the longest line */
    int line;
    ks_error *err;
} merge_file;

static int unknown(const merge_file *f, const char *token)
{
    return ks_error_set(f->err, "%s:%d: the token \"%.80s\" is not in vocab.json", f->path, f->line,
                        token);
}

/* "left right", of which line may be written to. */
static int read_merge(const merge_file *f, char *line, merge *m)
{
    char *space = strchr(line, ' ');
    if (!space || space == line || !space[1] || strchr(space + 1, ' '))
        return ks_error_set(f->err, "%s:%d: wanted two tokens with one space between them", f->path,
                            f->line);
    *space = '\0';
    const char *right = space + 1;
    m->left = find_token(f->vocab, line);
    m->right = find_token(f->vocab, right);
    if (m->left < 0 || m->right < 0)
        return unknown(f, m->left < 0 ? line : right);
    strcpy(stpcpy(f->joined, line), right);
    m->joined = find_token(f->vocab, f->joined);
    return m->joined < 0 ? unknown(f, f->joined) : 0;
}

static int compare_merges(const void *a, const void *b)
{
    const merge *l = a, *r = b;
    if (l->left != r->left)
        return l->left < r->left ? -1 : 1;
    return (l->right > r->right) - (l->right < r->right);
}

/* Orders the merges for lookup; a pair that stands twice is an error. */
static int order_merges(ks_tokenizer *t, const char *path, ks_error *err)
{
    qsort(t->merges, (size_t)t->count, sizeof *t->merges, compare_merges);
    for (int i = 1; i < t->count; i++)
        if (compare_merges(&t->merges[i - 1], &t->merges[i]) == 0)
            return ks_error_set(err, "%s: merges %d and %d are the same pair", path,
                                t->merges[i - 1].rank + 1, t->merges[i].rank + 1);
    return 0;
}

/* Each token that is neither a byte nor special is made by one merge: lines beyond those, which
 * CLIP's first files had, do not count. */
static int read_lines(ks_tokenizer *t, merge_file *f, char *text)
{
    int most = t->vocab - 2 * BYTES - 2; /* not negative: read_bytes has found those tokens */
    t->merges = ks_calloc((size_t)most, sizeof *t->merges);
    for (char *line = text, *next; line && t->count < most; line = next) {
        char *end = strchr(line, '\n');
        next = end ? end + 1 : NULL;
        if (end)
            *end = '\0';
        if (end && end > line && end[-1] == '\r')
            end[-1] = '\0';
        f->line++;
        if (!*line || (f->line == 1 && strstr(line, "#version")))
            continue;
        merge *m = &t->merges[t->count];
        if (read_merge(f, line, m) != 0)
            return -1;
        m->rank = t->count++;
    }
    return 0;
}

static int read_merges(ks_tokenizer *t, const vocabulary *v, const char *path, ks_error *err)
{
    size_t size;
    char *text = ks_read_file(path, FILE_LIMIT, &size, err);
    if (!text)
        return -1;
    int status;
    if (memchr(text, 0, size)) {
        status = ks_error_set(err, "%s: is no text, it holds NUL", path);
    } else {
        merge_file f = {.path = path, .vocab = v, .err = err};
        f.joined = ks_calloc(size + 1, 1);
        status = read_lines(t, &f, text);
        free(f.joined);
    }
    free(text);
    return status == 0 ? order_merges(t, path, err) : -1;
}

/* --- opening --- */

static int read_folder(ks_tokenizer *t, const char *folder, ks_error *err)
{
    vocabulary v = {0};
    char *vocab = ks_format("%s/vocab.json", folder), *merges = ks_format("%s/merges.txt", folder);
    int status = vocabulary_open(&v, vocab, err);
    t->vocab = v.count;
    if (status == 0)
        status = read_bytes(t, &v, err);
    if (status == 0)
        status = read_merges(t, &v, merges, err);
    vocabulary_close(&v);
    free(vocab);
    free(merges);
    return status;
}

ks_tokenizer *ks_tokenizer_open(const char *folder, ks_error *err)
{
    ks_tokenizer *t = ks_calloc(1, sizeof *t);
    if (read_folder(t, folder, err) != 0) {
        ks_tokenizer_free(t);
        return NULL;
    }
    return t;
}

void ks_tokenizer_free(ks_tokenizer *t)
{
    if (!t)
        return;
    free(t->merges);
    free(t);
}

static bool is_folder(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *ks_tokenizer_find(const char *model_path, ks_error *err)
{
    char *own = ks_path_with_extension(model_path, ".tokenizer");
    char *shared = ks_path_beside(model_path, "tokenizer"), *found = NULL;
    if (is_folder(own))
        found = ks_strdup(own);
    else if (shared && is_folder(shared))
        found = ks_strdup(shared);
    else
        ks_error_set(err, "%s: has no tokenizer beside it: neither %s/ nor tokenizer/ is there",
                     model_path, own);
    free(own);
    free(shared);
    return found;
}

int ks_tokenizer_vocab(const ks_tokenizer *t)
{
    return t->vocab;
}

int32_t ks_tokenizer_start(const ks_tokenizer *t)
{
    return t->start;
}

int32_t ks_tokenizer_end(const ks_tokenizer *t)
{
    return t->end;
}

/* --- encoding --- */

/* A pair of neighbours that a merge joins, waiting in the heap. It is stale when either of them has
 * become part of another token since. */
typedef struct candidate {
    int rank, place; /* of the left one */
    const merge *merge;
} candidate;

/* A word's tokens as a linked list over their first places, and the heap of candidates. */
typedef struct word {
    const ks_tokenizer *t;
    int32_t *id; /* -1 where a place has become part of the token before it */
    int *next, *before;
    int length;
    candidate *heap; /* the lowest (rank, place) on top */
    int waiting;
} word;

static bool goes_first(const candidate *a, const candidate *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->place < b->place;
}

static void push(word *w, candidate c)
{
    int at = w->waiting++;
    while (at > 0 && goes_first(&c, &w->heap[(at - 1) / 2])) {
        w->heap[at] = w->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    w->heap[at] = c;
}

static candidate pop(word *w)
{
    candidate top = w->heap[0], moved = w->heap[--w->waiting];
    int at = 0;
    for (int child; (child = 2 * at + 1) < w->waiting; at = child) {
        if (child + 1 < w->waiting && goes_first(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!goes_first(&w->heap[child], &moved))
            break;
        w->heap[at] = w->heap[child];
    }
    w->heap[at] = moved;
    return top;
}

/* Puts the pair that begins at place into the heap, where there is a merge for it. */
static void offer(word *w, int place)
{
    if (place < 0 || w->next[place] >= w->length)
        return;
    merge key = {.left = w->id[place], .right = w->id[w->next[place]]};
    const merge *m = bsearch(&key, w->t->merges, (size_t)w->t->count, sizeof key, compare_merges);
    if (m)
        push(w, (candidate){m->rank, place, m});
}

static bool still_there(const word *w, const candidate *c)
{
    return w->id[c->place] == c->merge->left && w->next[c->place] < w->length &&
           w->id[w->next[c->place]] == c->merge->right;
}

static void join(word *w, const candidate *c)
{
    int gone = w->next[c->place], behind = w->next[gone];
    w->id[c->place] = c->merge->joined;
    w->id[gone] = -1;
    w->next[c->place] = behind;
    if (behind < w->length)
        w->before[behind] = c->place;
}

/* Joins pairs until no merge is left. All pairs of the lowest rank are joined, from the left,
 * before any pair that this makes is looked at: that is CLIP's order, and it matters where a pair's
 * rank is lower than that of the merge that makes one of its tokens. */
static void merge_word(word *w, int *joined)
{
    for (int i = 0; i < w->length; i++)
        offer(w, i);
    while (w->waiting > 0) {
        int rank = w->heap[0].rank, count = 0;
        while (w->waiting > 0 && w->heap[0].rank == rank) {
            candidate c = pop(w);
            if (!still_there(w, &c))
                continue;
            join(w, &c);
            joined[count++] = c.place;
        }
        for (int i = 0; i < count; i++) {
            offer(w, w->before[joined[i]]);
            offer(w, joined[i]);
        }
    }
}

typedef struct id_list {
    int32_t *id;
    int count, room;
} id_list;

static void append(id_list *list, int32_t id)
{
    if (list->count == list->room) {
        list->room = list->room ? 2 * list->room : 32;
        list->id = ks_realloc(list->id, (size_t)list->room, sizeof *list->id);
    }
    list->id[list->count++] = id;
}

/* The ids of one word. */
static void encode_word(const ks_tokenizer *t, const char *text, int length, id_list *out)
{
    size_t n = (size_t)length;
    word w = {.t = t, .length = length};
    w.id = ks_calloc(n, sizeof *w.id);
    w.next = ks_calloc(n, sizeof *w.next);
    w.before = ks_calloc(n, sizeof *w.before);
    /* n pairs at first, and at most two more for each of the n - 1 joins. */
    w.heap = ks_calloc(3 * n, sizeof *w.heap);
    int *joined = ks_calloc(n, sizeof *joined);
    for (int i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        w.id[i] = i + 1 < length ? t->byte[byte] : t->last_byte[byte];
        w.next[i] = i + 1;
        w.before[i] = i - 1;
    }
    merge_word(&w, joined);
    for (int i = 0; i < length; i = w.next[i])
        append(out, w.id[i]);
    free(joined);
    free(w.heap);
    free(w.before);
    free(w.next);
    free(w.id);
}

static bool is(const char *text, size_t length, const char *wanted)
{
    return length == strlen(wanted) && memcmp(text, wanted, length) == 0;
}

int ks_tokenizer_encode(const ks_tokenizer *t, const char *text, int32_t **ids, int *count,
                        ks_error *err)
{
    *ids = NULL;
    *count = 0;
    if (strlen(text) > TEXT_LIMIT)
        return ks_error_set(err, "a text of %zu bytes cannot be tokenised: %d are the limit",
                            strlen(text), TEXT_LIMIT);
    char *normal = ks_clip_normalise(text, err);
    if (!normal)
        return -1;
    id_list list = {0};
    size_t at = 0;
    for (size_t n; (n = ks_clip_word(normal, &at)) > 0; at += n) {
        if (is(normal + at, n, ks_clip_start))
            append(&list, t->start);
        else if (is(normal + at, n, ks_clip_end))
            append(&list, t->end);
        else
            encode_word(t, normal + at, (int)n, &list);
    }
    free(normal);
    *ids = list.id ? list.id : ks_calloc(1, sizeof **ids);
    *count = list.count;
    return 0;
}
