#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/stop.h"

/* What happens to a child that catches and then gets the signals: its wait status. Its exit code is 1 for each look that found a
 * stop, before the last signal and after it. */
static int child_with(int first, int second)
{
    pid_t child = fork();
    if (!child) {
        ks_stop_catch_signals();
        raise(first);
        int code = ks_stop_requested();
        raise(second);
        _exit(code + ks_stop_requested());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void each_signal_asks_for_a_stop(void **state)
{
    (void)state;
    const int signals[] = {SIGTERM, SIGUSR1, SIGINT};
    for (int i = 0; i < 3; i++)
        assert_int_equal(child_with(signals[i], SIGTERM), W_EXITCODE(2, 0));
}

static void a_third_interrupt_is_never_needed(void **state)
{
    (void)state;
    pid_t child = fork();
    if (!child) {
        ks_stop_catch_signals();
        for (int i = 0; i < 3; i++)
            raise(SIGINT);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
}

/* The last test: the note stays. */
static void work_that_is_asked_to_stop_says_so(void **state)
{
    (void)state;
    ks_error err = KS_ERROR_NONE;
    char hex[KS_SHA256_HEX];
    ks_stop_catch_signals();
    assert_int_equal(ks_stop_check("waiting", &err), 0);
    assert_true(ks_stop_age() < 0);
    assert_int_equal(ks_sha256("abc", 3, hex, &err), 0);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    raise(SIGUSR1);
    assert_int_equal(ks_stop_check("waiting", &err), -1);
    assert_string_equal(err.text, "stopped by a signal while waiting");
    assert_int_equal(ks_sha256("abc", 3, hex, &err), -1);
    assert_non_null(strstr(err.text, "digest"));
    nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
    raise(SIGTERM);
    assert_true(ks_stop_age() >= 0.029 && ks_stop_age() < 10); /* the first signal counts */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_signal_asks_for_a_stop),
        cmocka_unit_test(a_third_interrupt_is_never_needed),
        cmocka_unit_test(work_that_is_asked_to_stop_says_so),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
