#include "cluster/guard.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

static void *guard(void *self)
{
    const ks_guard *g = self;
    double whole = floor(g->seconds);
    nanosleep(&(struct timespec){.tv_sec = (time_t)whole, .tv_nsec = (long)(1e9 * (g->seconds - whole))}, NULL);
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
    ks_log_error("%s did not end within %.0f s: has a rank died, or does one hang?", g->what, g->seconds);
    fflush(NULL);
    _exit(g->code);
}

/* The thread takes no signals: they are for the program's own. */
void ks_guard_start(ks_guard *g, double seconds, int code, const char *what)
{
    sigset_t all, before;
    *g = (ks_guard){.seconds = seconds, .code = code, .what = what};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    g->running = pthread_create(&g->thread, NULL, guard, g) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

void ks_guard_end(ks_guard *g)
{
    if (g->running && pthread_cancel(g->thread) == 0)
        pthread_join(g->thread, NULL);
    g->running = false;
}
