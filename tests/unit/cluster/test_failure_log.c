/* However many samples fail for however many reasons, the log stays short and counts them all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster/failures.h"

/* What the log gets of these failures: sample k fails for reason k modulo reasons. */
static char *log_of(int samples, int reasons)
{
    char reason[32], *text = calloc(1, 1 << 16);
    FILE *f = tmpfile();
    int own = dup(STDERR_FILENO);
    ks_failures failures = {0};
    dup2(fileno(f), STDERR_FILENO);
    for (int k = 0; k < samples; k++) {
        snprintf(reason, sizeof reason, "reason %d", k % reasons);
        ks_failures_add(&failures, (uint64_t)k, 1, reason);
    }
    ks_failures_end(&failures);
    dup2(own, STDERR_FILENO);
    close(own);
    rewind(f);
    assert_true(fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

static int lines_with(const char *text, const char *word)
{
    int lines = 0;
    for (; (text = strstr(text, word)); text += strlen(word))
        lines++;
    return lines;
}

static void each_reason_is_told_ten_times_and_counted(void **state)
{
    (void)state;
    char *text = log_of(300, 3);
    assert_int_equal(lines_with(text, " failed: "), 3 * (KS_FAILURES_TOLD + 1));
    for (int k = 0; k < 3; k++) {
        char line[64];
        snprintf(line, sizeof line, ": 90 more samples failed: reason %d\n", k);
        assert_non_null(strstr(text, line));
    }
    free(text);
}

static void reasons_that_are_too_many_are_counted_together(void **state)
{
    (void)state;
    char *text = log_of(1000, 1000);
    assert_int_equal(lines_with(text, "warning: sample "), KS_FAILURES_REASONS + KS_FAILURES_TOLD);
    assert_int_equal(lines_with(text, " more samples failed: "), 1);
    char line[64];
    snprintf(line, sizeof line, ": %d more samples failed: other reasons\n", 1000 - KS_FAILURES_REASONS - KS_FAILURES_TOLD);
    assert_non_null(strstr(text, line));
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_reason_is_told_ten_times_and_counted),
        cmocka_unit_test(reasons_that_are_too_many_are_counted_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
