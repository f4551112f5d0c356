#include "base/nearest.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>
#include <strings.h>

enum { LONGEST = 255, SHORTEST_BEGINNING = 3 };

static bool differ(char a, char b)
{
    return tolower((unsigned char)a) != tolower((unsigned char)b);
}

size_t ks_edit_distance(const char *a, const char *b)
{
    size_t rows = strnlen(a, LONGEST), columns = strnlen(b, LONGEST);
    size_t cost[LONGEST + 1]; /* of turning the first i bytes of a into the first j bytes of b */
    for (size_t j = 0; j <= columns; j++)
        cost[j] = j;
    for (size_t i = 1; i <= rows; i++) {
        size_t diagonal = cost[0];
        cost[0] = i;
        for (size_t j = 1; j <= columns; j++) {
            size_t replace = diagonal + differ(a[i - 1], b[j - 1]);
            size_t change = 1 + (cost[j] < cost[j - 1] ? cost[j] : cost[j - 1]);
            diagonal = cost[j];
            cost[j] = replace < change ? replace : change;
        }
    }
    return cost[columns];
}

/* Whether one of two names begins with the whole of the other. */
static bool begins_alike(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b), shorter = la < lb ? la : lb;
    return shorter >= SHORTEST_BEGINNING && strncasecmp(a, b, shorter) == 0;
}

/* Edits between two names; a longer form of the same name is no further away than two. */
static size_t distance_of(const char *word, const char *candidate)
{
    size_t edits = ks_edit_distance(word, candidate);
    return edits > 2 && begins_alike(word, candidate) ? 2 : edits;
}

const char *ks_nearest(const char *word, const char *const *candidates, size_t count)
{
    const char *best = NULL;
    size_t least = strnlen(word, LONGEST) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        size_t distance = distance_of(word, candidates[i]);
        if (distance < least) {
            least = distance;
            best = candidates[i];
        }
    }
    return best;
}
