#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <string.h>

#include "sampling/fiber.h"

typedef struct counter {
    ks_fiber *fiber;
    int steps, value;
    double sum;
} counter;

static ks_fiber *new_fiber(void)
{
    ks_error err = KS_ERROR_NONE;
    ks_fiber *f = ks_fiber_new(&err);
    if (!f)
        fail_msg("%s", err.text);
    return f;
}

/* Counts, with state in locals that must outlive every suspension. */
static void count(void *self)
{
    counter *c = self;
    double step = 0.5;
    for (int i = 0; i < c->steps; i++) {
        c->value = i;
        c->sum += step;
        step *= 0.5;
        ks_fiber_suspend(c->fiber);
    }
}

static void a_fiber_goes_on_where_it_stopped(void **state)
{
    (void)state;
    counter c = {.fiber = new_fiber(), .steps = 5};
    ks_fiber_start(c.fiber, count, &c);
    for (int i = 0; i < 5; i++) {
        assert_true(ks_fiber_resume(c.fiber));
        assert_int_equal(c.value, i);
    }
    assert_false(ks_fiber_resume(c.fiber));
    assert_true(c.sum == 0.96875);
    ks_fiber_free(c.fiber);
}

static void fibers_do_not_disturb_each_other(void **state)
{
    (void)state;
    counter a = {.fiber = new_fiber(), .steps = 3}, b = {.fiber = new_fiber(), .steps = 7};
    ks_fiber_start(a.fiber, count, &a);
    ks_fiber_start(b.fiber, count, &b);
    bool a_runs = true, b_runs = true;
    while (a_runs || b_runs) {
        a_runs = a_runs && ks_fiber_resume(a.fiber);
        b_runs = b_runs && ks_fiber_resume(b.fiber);
    }
    assert_true(a.sum == 0.875);
    assert_true(b.sum == 0.9921875);
    ks_fiber_free(a.fiber);
    ks_fiber_free(b.fiber);
}

static void a_fiber_dropped_in_its_middle_starts_afresh(void **state)
{
    (void)state;
    counter c = {.fiber = new_fiber(), .steps = 4};
    for (int round = 0; round < 3; round++) {
        c.sum = 0;
        ks_fiber_start(c.fiber, count, &c);
        assert_true(ks_fiber_resume(c.fiber));
        assert_true(ks_fiber_resume(c.fiber));
        assert_int_equal(c.value, 1);
        assert_true(c.sum == 0.75);
    }
    ks_fiber_free(c.fiber);
}

/* What a sampler may use of its stack, with room left for the C library. */
static void fill_stack(void *self)
{
    volatile char big[32 << 10];
    counter *c = self;
    memset((char *)big, 3, sizeof big);
    ks_fiber_suspend(c->fiber);
    c->value = 0;
    for (size_t i = 0; i < sizeof big; i++)
        c->value += big[i];
}

static void half_of_the_stack_is_a_sampler_s_to_use(void **state)
{
    (void)state;
    counter c = {.fiber = new_fiber()};
    ks_fiber_start(c.fiber, fill_stack, &c);
    assert_true(ks_fiber_resume(c.fiber));
    assert_false(ks_fiber_resume(c.fiber));
    assert_int_equal(c.value, 3 * (32 << 10));
    ks_fiber_free(c.fiber);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fiber_goes_on_where_it_stopped),
        cmocka_unit_test(fibers_do_not_disturb_each_other),
        cmocka_unit_test(a_fiber_dropped_in_its_middle_starts_afresh),
        cmocka_unit_test(half_of_the_stack_is_a_sampler_s_to_use),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
