/* Which conditioning lies where: what a call uses stays, the longest unused gives way. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdint.h>
#include <string.h>

#include "cluster/slots.h"

/* Asks for id; whether it was new. */
static bool ask(ks_slots *s, uint64_t id, int *slot)
{
    bool is_new;
    *slot = ks_slots_of(s, id, &is_new);
    return is_new;
}

static void what_is_there_keeps_its_slot(void **state)
{
    (void)state;
    int first, again, other;
    ks_slots *s = ks_slots_new(4);
    ks_slots_begin(s);
    assert_true(ask(s, 7, &first));
    assert_false(ask(s, 7, &again));
    assert_true(ask(s, 8, &other));
    ks_slots_begin(s);
    assert_int_equal(again, first);
    assert_int_not_equal(other, first);
    assert_false(ask(s, 7, &again));
    assert_int_equal(again, first);
    ks_slots_free(s);
}

static void the_longest_unused_gives_way(void **state)
{
    (void)state;
    int slot[4], at;
    ks_slots *s = ks_slots_new(3);
    for (uint64_t id = 1; id <= 3; id++) {
        ks_slots_begin(s);
        assert_true(ask(s, id, &slot[id]));
    }
    ks_slots_begin(s);
    assert_false(ask(s, 1, &at));
    assert_true(ask(s, 4, &at));
    assert_int_equal(at, slot[2]);
    assert_false(ask(s, 3, &at));
    ks_slots_begin(s);
    assert_true(ask(s, 2, &at));
    assert_int_equal(at, slot[1]); /* used in the turn before by 1, 3 and 4: the first of them */
    ks_slots_free(s);
}

/* A million conditionings in turns of up to as many as there are slots: no turn's own ever share one, and a slot that is said to hold
 * something holds it. */
static void no_turn_takes_a_slot_from_itself(void **state)
{
    (void)state;
    enum { SLOTS = 9, TURNS = 200000 };
    uint64_t holds[SLOTS] = {0}, random = 1, fresh = 0;
    ks_slots *s = ks_slots_new(SLOTS);
    for (int turn = 0; turn < TURNS; turn++) {
        uint64_t taken[SLOTS] = {0};
        ks_slots_begin(s);
        int asked = turn % SLOTS + 1;
        for (int i = 0; i < asked; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            uint64_t id = 1 + (uint64_t)turn / 4 + (random >> 33) % (2 * SLOTS);
            int slot;
            bool is_new = ask(s, id, &slot);
            assert_in_range(slot, 0, SLOTS - 1);
            assert_true(is_new || holds[slot] == id);
            assert_true(taken[slot] == 0 || taken[slot] == id);
            holds[slot] = taken[slot] = id;
            fresh += is_new;
        }
    }
    assert_in_range(fresh, TURNS / 4, 5 * (uint64_t)TURNS);
    ks_slots_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_there_keeps_its_slot),
                                       cmocka_unit_test(the_longest_unused_gives_way),
                                       cmocka_unit_test(no_turn_takes_a_slot_from_itself)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
