#include "base/stop.h"

#include <signal.h>
#include <stddef.h>

static volatile sig_atomic_t requested;

static void on_signal(int number)
{
    if (number == SIGINT && requested)
        signal(SIGINT, SIG_DFL);
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

int ks_stop_check(const char *doing, ks_error *err)
{
    return requested ? ks_error_set(err, "stopped by a signal while %s", doing) : 0;
}
