#include "base/stop.h"

#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <time.h>

static volatile sig_atomic_t requested;
static atomic_llong since; /* milliseconds: when the first signal came */

static long long now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1000LL * t.tv_sec + t.tv_nsec / 1000000;
}

static void on_signal(int number)
{
    if (number == SIGINT && requested)
        signal(SIGINT, SIG_DFL);
    if (!requested)
        since = now();
    requested = 1;
}

void ks_stop_catch_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
}

bool ks_stop_requested(void)
{
    return requested != 0;
}

double ks_stop_age(void)
{
    return requested ? (double)(now() - since) / 1000 : -1;
}

int ks_stop_check(const char *doing, ks_error *err)
{
    return requested ? ks_error_set(err, "stopped by a signal while %s", doing) : 0;
}
