#include "cluster/ranges.h"

#include <stddef.h>

/* splitmix64 (Steele et al. 2014) of a counter: the shape of the tree repeats from run to run. */
static uint64_t draw(uint64_t n)
{
    uint64_t z = n * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Cuts tree t into the nodes below key (low) and the others (high). */
static void split(ks_range *t, uint64_t key, ks_range **low, ks_range **high)
{
    while (t) {
        if (t->first < key) {
            *low = t;
            low = &t->right;
            t = *low;
        } else {
            *high = t;
            high = &t->left;
            t = *high;
        }
    }
    *low = *high = NULL;
}

/* One tree of two, where every node of a lies below every node of b. */
static ks_range *join(ks_range *a, ks_range *b)
{
    ks_range *root = NULL, **at = &root;
    while (a && b) {
        if (a->priority > b->priority) {
            *at = a;
            at = &a->right;
            a = *at;
        } else {
            *at = b;
            at = &b->left;
            b = *at;
        }
    }
    *at = a ? a : b;
    return root;
}

void ks_ranges_insert(ks_ranges *set, ks_range *r)
{
    r->priority = draw(++set->drawn);
    ks_range **at = &set->root;
    while (*at && (*at)->priority >= r->priority)
        at = r->first < (*at)->first ? &(*at)->left : &(*at)->right;
    split(*at, r->first, &r->left, &r->right);
    *at = r;
}

void ks_ranges_remove(ks_ranges *set, ks_range *r)
{
    ks_range **at = &set->root;
    while (*at && *at != r)
        at = r->first < (*at)->first ? &(*at)->left : &(*at)->right;
    if (*at)
        *at = join(r->left, r->right);
}

/* The range with the greatest first <= point, or NULL. */
static ks_range *at_or_below(const ks_ranges *set, uint64_t point)
{
    ks_range *best = NULL, *t = set->root;
    while (t) {
        if (t->first <= point) {
            best = t;
            t = t->right;
        } else {
            t = t->left;
        }
    }
    return best;
}

ks_range *ks_ranges_at(const ks_ranges *set, uint64_t point)
{
    ks_range *r = at_or_below(set, point);
    return r && point - r->first < r->count ? r : NULL;
}

ks_range *ks_ranges_ending_at(const ks_ranges *set, uint64_t point)
{
    return point ? ks_ranges_at(set, point - 1) : NULL;
}

ks_range *ks_ranges_lowest(const ks_ranges *set)
{
    ks_range *t = set->root;
    while (t && t->left)
        t = t->left;
    return t;
}
