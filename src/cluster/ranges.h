/* An ordered set of disjoint ranges of points: a treap (Seidel and Aragon 1996), whose nodes their
 * owners embed.
 *
 * Every operation takes O(log n) expected time and no memory. A node's range may be cut at either
 * end while it is in the set, as long as it stays non-empty: that keeps the order. */
#ifndef KS_CLUSTER_RANGES_H
#define KS_CLUSTER_RANGES_H

#include <stdint.h>

typedef struct ks_range {
    uint64_t first, count; /* first..first+count-1, count >= 1 */
    uint64_t priority;     /* drawn by ks_ranges_insert: the tree is a heap in it */
    struct ks_range *left, *right;
} ks_range;

typedef struct ks_ranges {
    ks_range *root;
    uint64_t drawn; /* nodes inserted so far: the state of the priorities' stream */
} ks_ranges;

/* r must not overlap a range of the set. */
void ks_ranges_insert(ks_ranges *set, ks_range *r);
/* r must be in the set. */
void ks_ranges_remove(ks_ranges *set, ks_range *r);

/* The range that holds the point, or NULL. */
ks_range *ks_ranges_at(const ks_ranges *set, uint64_t point);
/* The range that ends just before the point, or NULL. */
ks_range *ks_ranges_ending_at(const ks_ranges *set, uint64_t point);
/* The lowest range, or NULL. */
ks_range *ks_ranges_lowest(const ks_ranges *set);

#endif
