/* Several ranks' CPU backends: sums, broadcasts and gatherings over a group, and what happens when one of them is gone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/ops.h"
#include "support/fork_group.h"

enum { RANKS = 3, LIMIT = 60 };
static const double patience = 20;

/* A member's device, which has joined its group as both; the member ends where that fails. */
static ks_ops *joined(ks_group *g)
{
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = ks_ops_cpu(2, &err);
    if (!ops || ops->join(ops, g, g, &err) != 0) {
        fprintf(stderr, "rank %d: %s\n", g->rank, err.text);
        _exit(99);
    }
    return ops;
}

/* The member's exit status from whether all went well. */
static int ended(ks_ops *ops, ks_group *g, bool good)
{
    ks_error err = KS_ERROR_NONE;
    if (ops->sync(ops, &err) != 0) {
        fprintf(stderr, "rank %d: %s\n", g->rank, err.text);
        good = false;
    }
    ops->free(ops);
    return good ? 0 : 1;
}

static void all_end_well(int size, int (*member)(ks_group *, void *))
{
    fork_results r = fork_group_run(size, patience, LIMIT, member, NULL);
    for (int i = 0; i < size; i++)
        assert_int_equal(r.status[i], 0);
}

/* --- sums --- */

/* An element of a rank's part: added in another order, or in double, the three are another number. */
static float part_of(int rank, int64_t element)
{
    static const float kinds[3][RANKS] = {{1e8f, 1.0f, -1e8f}, {0.1f, 0.7f, 1e-3f}, {3.0f, -3.0f, 1e-20f}};
    return kinds[element % 3][rank] * (float)(1 + element % 5);
}

static float sum_of(int64_t element)
{
    float sum = part_of(0, element);
    for (int rank = 1; rank < RANKS; rank++)
        sum += part_of(rank, element);
    return sum;
}

/* Sums a [2, h, w, c] whose pixels lie in wider ones; what lies beside them stays. */
static bool sums_rightly(ks_ops *ops, int rank, int h, int w, int c, int beside)
{
    const float untouched = 7.5f;
    const int64_t pixels = (int64_t)2 * h * w, stride = c + beside;
    float *data = malloc((size_t)(pixels * stride) * sizeof *data);
    bool good = data != NULL;
    for (int64_t i = 0; good && i < pixels * stride; i++)
        data[i] = i % stride < c ? part_of(rank, i) : untouched;
    ops->all_reduce(ops, (ks_act){.data = data, .n = 2, .h = h, .w = w, .c = c, .stride = stride});
    for (int64_t i = 0; good && i < pixels * stride; i++)
        good = data[i] == (i % stride < c ? sum_of(i) : untouched);
    free(data);
    return good;
}

static int sum_member(ks_group *g, void *arg)
{
    (void)arg;
    ks_ops *ops = joined(g);
    bool good = sums_rightly(ops, g->rank, 3, 5, 7, 0) && sums_rightly(ops, g->rank, 3, 5, 7, 2) &&
                sums_rightly(ops, g->rank, 1, 1, 1, 0) && sums_rightly(ops, g->rank, 61, 53, 67, 1);
    return ended(ops, g, good);
}

static void every_rank_has_the_sum_in_the_order_of_the_ranks(void **state)
{
    (void)state;
    all_end_well(RANKS, sum_member);
}

/* --- bytes --- */

static unsigned char byte_of(int rank, size_t at)
{
    return (unsigned char)(rank * 101 + (int)(at % 251));
}

static bool holds(const unsigned char *bytes, size_t size, int rank)
{
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != byte_of(rank, i))
            return false;
    return true;
}

static bool moves_rightly(ks_ops *ops, int rank, size_t size)
{
    unsigned char *all = malloc(RANKS * size + 1);
    bool good = all != NULL;
    for (size_t i = 0; good && i < size; i++) {
        all[i] = byte_of(rank, i);
        all[RANKS * size] = 42;
    }
    ops->broadcast(ops, all, size);
    good = good && holds(all, size, 0);
    memset(all, 0, RANKS * size);
    for (size_t i = 0; good && i < size; i++)
        all[(size_t)rank * size + i] = byte_of(rank, i);
    ops->gather(ops, all, size);
    for (int k = 0; k < RANKS; k++)
        good = good && holds(all + (size_t)k * size, size, k);
    good = good && all[RANKS * size] == 42;
    free(all);
    return good;
}

static int move_member(ks_group *g, void *arg)
{
    (void)arg;
    ks_ops *ops = joined(g);
    bool good = moves_rightly(ops, g->rank, 1) && moves_rightly(ops, g->rank, 4097) &&
                moves_rightly(ops, g->rank, (3 << 20) + 5);
    return ended(ops, g, good);
}

static void broadcasts_and_gatherings_of_any_size_arrive(void **state)
{
    (void)state;
    all_end_well(RANKS, move_member);
}

/* --- alone, and not yet together --- */

static void alone_nothing_is_sent(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_group alone = {.rank = 0, .size = 1};
    ks_ops *ops = ks_ops_cpu(1, &err);
    float x[3] = {1, 2, 3};
    assert_non_null(ops);
    assert_int_equal(ops->join(ops, &alone, &alone, &err), 0);
    ops->all_reduce(ops, (ks_act){.data = x, .n = 1, .h = 1, .w = 1, .c = 3, .stride = 3});
    ops->broadcast(ops, x, sizeof x);
    ops->gather(ops, x, sizeof x);
    assert_int_equal(ops->sync(ops, &err), 0);
    assert_true(x[0] == 1 && x[1] == 2 && x[2] == 3);
    ops->free(ops);
}

static void a_sum_before_joining_is_a_failure(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    ks_ops *ops = ks_ops_cpu(1, &err);
    float x = 1;
    assert_non_null(ops);
    ops->all_reduce(ops, (ks_act){.data = &x, .n = 1, .h = 1, .w = 1, .c = 1, .stride = 1});
    assert_int_equal(ops->sync(ops, &err), -1);
    assert_non_null(strstr(err.text, "joined"));
    ops->free(ops);
}

/* --- losses --- */

enum { DIES = 1 };
static const double short_patience = 0.5;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A sum of which one rank takes no part any more: the others' sync says so, names it, and soon. */
static int sum_without_one(ks_ops *ops, ks_group *g)
{
    ks_error err = KS_ERROR_NONE;
    float x = 1;
    const double begin = now();
    for (int i = 0; i < 3; i++)
        ops->all_reduce(ops, (ks_act){.data = &x, .n = 1, .h = 1, .w = 1, .c = 1, .stride = 1});
    bool good = ops->sync(ops, &err) == -1 && strstr(err.text, "rank 1") && ops->fault;
    if (!good)
        fprintf(stderr, "rank %d: \"%s\"\n", g->rank, err.text);
    ops->free(ops);
    return good && now() - begin < 10 * short_patience ? 0 : 1;
}

static int dying_member(ks_group *g, void *arg)
{
    (void)arg;
    ks_ops *ops = joined(g);
    if (!sums_rightly(ops, g->rank, 3, 5, 7, 0))
        return 2;
    if (g->rank == DIES)
        _exit(17);
    return sum_without_one(ops, g);
}

/* A rank that fails by itself keeps its failure, and takes no part in what comes after. */
static int failing_member(ks_group *g, void *arg)
{
    (void)arg;
    ks_ops *ops = joined(g);
    if (g->rank != DIES)
        return sum_without_one(ops, g);
    ks_error err = KS_ERROR_NONE;
    float x = 1;
    ks_act a = {.data = &x, .n = 1, .h = 1, .w = 1, .c = 1, .stride = 1}, b = a;
    b.c = 2;
    ops->add(ops, a, a, b);
    ops->all_reduce(ops, a);
    bool good = ops->sync(ops, &err) == -1 && strstr(err.text, "add");
    ops->free(ops);
    return good ? 17 : 1;
}

static void the_others_are_told(int (*member)(ks_group *, void *))
{
    fork_results r = fork_group_run(RANKS, short_patience, LIMIT, member, NULL);
    for (int i = 0; i < RANKS; i++)
        assert_int_equal(r.status[i], i == DIES ? 17 : 0);
}

static void a_rank_that_dies_is_a_failure_of_the_others(void **state)
{
    (void)state;
    the_others_are_told(dying_member);
}

static void a_rank_that_fails_is_a_failure_of_the_others(void **state)
{
    (void)state;
    the_others_are_told(failing_member);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_has_the_sum_in_the_order_of_the_ranks),
        cmocka_unit_test(broadcasts_and_gatherings_of_any_size_arrive),
        cmocka_unit_test(alone_nothing_is_sent),
        cmocka_unit_test(a_sum_before_joining_is_a_failure),
        cmocka_unit_test(a_rank_that_dies_is_a_failure_of_the_others),
        cmocka_unit_test(a_rank_that_fails_is_a_failure_of_the_others),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
