#include "base/nearest.h"

#include <string.h>

enum { LONGEST = 255 };

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
            size_t replace = diagonal + (a[i - 1] != b[j - 1]);
            size_t change = 1 + (cost[j] < cost[j - 1] ? cost[j] : cost[j - 1]);
            diagonal = cost[j];
            cost[j] = replace < change ? replace : change;
        }
    }
    return cost[columns];
}

const char *ks_nearest(const char *word, const char *const *candidates, size_t count)
{
    const char *best = NULL;
    size_t least = strnlen(word, LONGEST) / 3 + 2;
    for (size_t i = 0; i < count; i++) {
        size_t distance = ks_edit_distance(word, candidates[i]);
        if (distance < least) {
            least = distance;
            best = candidates[i];
        }
    }
    return best;
}
