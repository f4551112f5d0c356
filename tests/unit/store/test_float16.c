#include <math.h>

#include "store/float16.h"
#include "unit/store/fixture.h"

static void every_half_survives_the_way_to_float32_and_back(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = ks_float32((uint16_t)h);
        bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff);
        assert_int_equal(isnan(f) != 0, nan);
        if (!nan)
            assert_int_equal(ks_float16(f), h);
        else
            assert_true((ks_float16(f) & 0x7c00) == 0x7c00 && (ks_float16(f) & 0x3ff));
    }
}

/* The value of a positive half by the definition of the format. */
static double half_value(uint32_t h)
{
    int exponent = (int)(h >> 10);
    return exponent ? ldexp(1024.0 + (h & 0x3ff), exponent - 25) : ldexp((double)(h & 0x3ff), -24);
}

/* Between two neighbouring halves: just below, at and just above the middle. */
static void rounding_is_to_nearest_with_ties_to_even(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        double low = half_value(h), high = h == 0x7bff ? 65536.0 : half_value(h + 1);
        float middle = (float)((low + high) / 2);
        assert_true((double)middle == (low + high) / 2);
        assert_int_equal(ks_float16(nextafterf(middle, 0)), h);
        assert_int_equal(ks_float16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(ks_float16(middle), h + (h & 1));
        assert_int_equal(ks_float16(-middle), 0x8000 | (h + (h & 1)));
    }
}

static void what_is_too_large_becomes_infinity_and_too_small_zero(void **state)
{
    (void)state;
    assert_int_equal(ks_float16(1e30f), 0x7c00);
    assert_int_equal(ks_float16(-INFINITY), 0xfc00);
    assert_int_equal(ks_float16(1e-30f), 0);
    assert_int_equal(ks_float16(-1e-30f), 0x8000);
    assert_int_equal(ks_float16(65519.996f), 0x7bff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_survives_the_way_to_float32_and_back),
        cmocka_unit_test(rounding_is_to_nearest_with_ties_to_even),
        cmocka_unit_test(what_is_too_large_becomes_infinity_and_too_small_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
