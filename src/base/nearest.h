/* The nearest known name to one that is not known, for messages. */
#ifndef KS_BASE_NEAREST_H
#define KS_BASE_NEAREST_H

#include <stddef.h>

/* Single-character insertions, deletions and replacements that turn a into b (Levenshtein 1966).
 * Capitals count as small letters, and only the first 255 bytes of each count. */
size_t ks_edit_distance(const char *a, const char *b);

/* The candidate at the smallest distance from word, the first of several; NULL when none is near
 * (at most one edit, and one more for every three letters of the word). One that begins with the
 * word, or with which the word begins, counts as two edits away at most, from three letters on. */
const char *ks_nearest(const char *word, const char *const *candidates, size_t count);

#endif
