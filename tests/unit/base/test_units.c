/* Sizes and times as they are printed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/units.h"

static void expect_size(double bytes, const char *wanted)
{
    char text[32];
    ks_size_text(bytes, text, sizeof text);
    assert_string_equal(text, wanted);
}

static void expect_duration(double seconds, const char *wanted)
{
    char text[32];
    ks_duration_text(seconds, text, sizeof text);
    assert_string_equal(text, wanted);
}

static void sizes_have_the_unit_that_suits_them(void **state)
{
    (void)state;
    expect_size(0, "0 B");
    expect_size(1023, "1023 B");
    expect_size(1536, "1.5 KiB");
    expect_size(5078226.6 * 0x1p20, "4.8 TiB");
    expect_size(3 * 0x1p60, "3.0 EiB");
}

static void long_times_are_in_days(void **state)
{
    (void)state;
    expect_duration(0, "0:00");
    expect_duration(59.4, "0:59");
    expect_duration(3661, "1:01:01");
    expect_duration(86399, "23:59:59");
    expect_duration(86400, "1 day 0 h");
    expect_duration(25626 * 3600.0 + 2307, "1067 days 18 h");
    expect_duration(-1, "?");
    expect_duration(1e300, "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_have_the_unit_that_suits_them),
        cmocka_unit_test(long_times_are_in_days),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
