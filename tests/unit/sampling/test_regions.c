/* Areas and masks: where they lie, what they weigh, and which conditions a call gets from them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "sampling/guidance.h"
#include "sampling/regions.h"

static void assert_area(ks_window got, int h, int w, int y, int x)
{
    if (got.h != h || got.w != w || got.y != y || got.x != x)
        fail_msg("%d x %d at %d, %d", got.h, got.w, got.y, got.x);
}

static void shares_are_rounded_half_to_even_and_are_at_least_a_cell(void **state)
{
    (void)state;
    assert_area(ks_area_of_shares((double[]){0.5, 0.75, 0.25, 0}, 16, 8), 8, 6, 4, 0);
    assert_area(ks_area_of_shares((double[]){0.5, 0.5, 0.5, 0.5}, 5, 7), 2, 4, 2, 4);
    assert_area(ks_area_of_shares((double[]){0, 0.001, 1, 0.999}, 16, 16), 1, 1, 16, 16);
}

static void bounds_hold_what_is_not_zero_and_eight_cells(void **state)
{
    (void)state;
    float mask[2 * 20 * 30] = {0};
    assert_area(ks_area_of_masks(mask, 2, 20, 30), 8, 8, 0, 0);
    mask[5 * 30 + 7] = 1;
    assert_area(ks_area_of_masks(mask, 2, 20, 30), 8, 8, 5, 7);
    mask[20 * 30 + 15 * 30 + 27] = -0.5F; /* of the second mask */
    assert_area(ks_area_of_masks(mask, 2, 20, 30), 11, 21, 5, 7);
    assert_area(ks_area_of_masks(mask, 1, 20, 30), 8, 8, 5, 7);
}

static void areas_are_cut_at_the_edges(void **state)
{
    (void)state;
    ks_window a = {.y = 8, .x = 9, .h = 12, .w = 12};
    assert_true(ks_area_clip(&a, 16, 16));
    assert_area(a, 8, 7, 8, 9);
    ks_window below = {.y = 16, .x = 0, .h = 4, .w = 4}, right = {.y = 0, .x = 20, .h = 4, .w = 4};
    assert_false(ks_area_clip(&below, 16, 16));
    assert_false(ks_area_clip(&right, 16, 16));
}

static void areas_fade_towards_inner_sides_only(void **state)
{
    (void)state;
    float weight[12 * 40];
    ks_area_feather((ks_window){.y = 0, .x = 3, .h = 12, .w = 40}, 20, 43, weight);
    for (int y = 0; y < 12; y++)
        for (int x = 0; x < 40; x++) {
            double bottom = y >= 9 ? (12 - y) / 3.0 : 1; /* a quarter of 12 lines */
            double left = x < 8 ? (x + 1) / 8.0 : 1;     /* at most 8 cells */
            assert_true(fabs((double)weight[y * 40 + x] - bottom * left) < 1e-6);
        }
    ks_area_feather((ks_window){.y = 1, .x = 1, .h = 3, .w = 3}, 9, 9, weight);
    for (int i = 0; i < 9; i++)
        assert_true(weight[i] == 1); /* too small to fade */
}

static void resizing_takes_the_two_by_two_neighbours(void **state)
{
    (void)state;
    const float in[] = {0, 1, 2, 3, 10, 11, 12, 13}; /* [2, 4] */
    float out[24];
    ks_resize_bilinear(in, 1, 2, 4, out, 2, 4);
    assert_memory_equal(out, in, sizeof in);
    ks_resize_bilinear(in, 1, 2, 4, out, 1, 2); /* means of pairs */
    assert_true(out[0] == 5.5F && out[1] == 7.5F);
    ks_resize_bilinear(in, 1, 2, 4, out, 2, 8); /* a quarter from each neighbour */
    const float wide[] = {0, 0.25F, 0.75F, 1.25F, 1.75F, 2.25F, 2.75F, 3};
    assert_memory_equal(out, wide, sizeof wide);
    ks_resize_bilinear(in, 2, 1, 4, out, 1, 1); /* two pictures; only the middle ones count */
    assert_true(out[0] == 1.5F && out[1] == 11.5F);
}

/* --- the conditions of a call --- */

enum { ROOM = 16 };

typedef struct made {
    ks_condition condition[ROOM];
    int active[ROOM];
    ks_guidance_set set;
    ks_error err;
    int status;
} made;

static const char texts[8]; /* addresses stand for conditionings */

static ks_guidance given(int text, const ks_window *area)
{
    ks_guidance g = {.cond = (const struct ks_cond *)&texts[text],
                     .strength = 1 + text,
                     .start_percent = 0.125 * text,
                     .end_percent = 1,
                     .has_area = area != NULL};
    if (area)
        g.area = *area;
    return g;
}

static made make(int positives, const ks_guidance *positive, int negatives,
                 const ks_guidance *negative)
{
    static ks_model_sampling ms;
    ks_model_sampling_init(&ms, KS_PREDICT_EPS, false, 0.00085, 0.012);
    const ks_call call = {.model_sampling = &ms,
                          .cfg = 4,
                          .batch = 1,
                          .channels = 4,
                          .height = 16,
                          .width = 16,
                          .positives = positives,
                          .positive = positive,
                          .negatives = negatives,
                          .negative = negative};
    static made m;
    m = (made){0};
    assert_true(ks_guidance_room(&call) <= ROOM);
    m.status = ks_guidance_init(&m.set, &call, m.condition, m.active, &m.err);
    return m;
}

/* Condition number i is on that side, has that text, and the area of that given conditioning. */
static void assert_condition(const made *m, int i, bool negative, int text, int from)
{
    const ks_condition *c = &m->condition[i];
    assert_true(i < m->set.conditions);
    assert_int_equal(c->negative, negative);
    assert_ptr_equal(c->cond, &texts[text]);
    assert_int_equal(c->given, from);
    assert_true(c->strength == m->condition[from].strength);
    assert_true(c->sigma_first == m->condition[from].sigma_first);
    assert_true(ks_area_equal(&c->area, &m->condition[from].area));
}

static const ks_window half = {.h = 16, .w = 8}, corner = {.h = 8, .w = 8},
                       off = {.y = 4, .x = 4, .h = 8, .w = 12},
                       beyond = {.y = 4, .x = 4, .h = 40, .w = 12};

static void whole_conditionings_stay_alone(void **state)
{
    (void)state;
    ks_guidance p[] = {given(0, NULL), given(1, NULL)}, n[] = {given(2, NULL)};
    made m = make(2, p, 1, n);
    assert_int_equal(m.status, 0);
    assert_int_equal(m.set.conditions, 3);
    assert_false(m.set.regional[false] || m.set.regional[true]);
    assert_area(m.condition[0].at, 16, 16, 0, 0);
}

static void an_area_gets_the_other_side_s_first_whole_text(void **state)
{
    (void)state;
    ks_guidance p[] = {given(0, NULL), given(1, &off)}, n[] = {given(2, NULL), given(3, NULL)};
    made m = make(2, p, 2, n);
    assert_int_equal(m.set.conditions, 5);
    assert_condition(&m, 4, true, 2, 1);
    assert_true(m.set.regional[false] && m.set.regional[true]);
    assert_area(m.condition[4].at, 8, 12, 4, 4);
}

static void an_area_gets_the_text_of_the_smallest_area_around_it(void **state)
{
    (void)state;
    const ks_window whole = {.h = 16, .w = 16};
    ks_guidance p[] = {given(1, &corner)},
                n[] = {given(2, NULL), given(3, &whole), given(4, &half), given(5, &off)};
    made m = make(1, p, 4, n);
    assert_int_equal(m.set.conditions, 6);
    assert_condition(&m, 5, true, 4, 0);
    /* The positive side has nothing around the negative's areas and no whole conditioning. */
    for (int i = 0; i < m.set.conditions; i++)
        assert_true(m.condition[i].negative || i == 0);
}

static void equal_areas_on_both_sides_need_no_copies(void **state)
{
    (void)state;
    ks_guidance p[] = {given(1, &off)}, n[] = {given(2, NULL), given(3, &off)};
    assert_int_equal(make(1, p, 2, n).set.conditions, 3);
}

static void copies_serve_the_areas_that_follow(void **state)
{
    (void)state;
    ks_guidance p[] = {given(0, &half), given(1, &corner)},
                n[] = {given(2, NULL), given(3, &corner)};
    made m = make(2, p, 2, n);
    assert_int_equal(m.set.conditions, 5); /* half is copied; corner is on both sides */
    assert_condition(&m, 4, true, 2, 0);
    ks_guidance q[] = {given(2, NULL)};
    m = make(2, p, 1, q);
    assert_int_equal(m.set.conditions, 5); /* corner finds the copy of half around it */
    assert_condition(&m, 3, true, 2, 0);
    assert_condition(&m, 4, true, 2, 1);
}

static void areas_are_compared_before_they_are_cut(void **state)
{
    (void)state;
    const ks_window cut = {.y = 4, .x = 4, .h = 12, .w = 12};
    ks_guidance p[] = {given(0, NULL), given(1, &beyond)}, n[] = {given(2, NULL), given(3, &cut)};
    made m = make(2, p, 2, n);
    assert_int_equal(m.set.conditions, 6);
    assert_condition(&m, 4, true, 2, 1);  /* beyond reaches out of cut: the whole text */
    assert_condition(&m, 5, false, 1, 3); /* cut lies within beyond */
    assert_area(m.condition[1].at, 12, 12, 4, 4);
}

static void an_area_outside_the_latent_is_refused(void **state)
{
    (void)state;
    const ks_window outside = {.y = 16, .x = 0, .h = 4, .w = 4};
    ks_guidance p[] = {given(0, &outside)}, n[] = {given(2, NULL)};
    made m = make(1, p, 1, n);
    assert_int_equal(m.status, -1);
    assert_non_null(strstr(m.err.text, "outside the latent of 16 x 16"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_are_rounded_half_to_even_and_are_at_least_a_cell),
        cmocka_unit_test(bounds_hold_what_is_not_zero_and_eight_cells),
        cmocka_unit_test(areas_are_cut_at_the_edges),
        cmocka_unit_test(areas_fade_towards_inner_sides_only),
        cmocka_unit_test(resizing_takes_the_two_by_two_neighbours),
        cmocka_unit_test(whole_conditionings_stay_alone),
        cmocka_unit_test(an_area_gets_the_other_side_s_first_whole_text),
        cmocka_unit_test(an_area_gets_the_text_of_the_smallest_area_around_it),
        cmocka_unit_test(equal_areas_on_both_sides_need_no_copies),
        cmocka_unit_test(copies_serve_the_areas_that_follow),
        cmocka_unit_test(areas_are_compared_before_they_are_cut),
        cmocka_unit_test(an_area_outside_the_latent_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
