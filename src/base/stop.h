/* A stop that was asked for by a signal: SIGTERM, SIGINT or SIGUSR1.
 *
 * The handler only takes note. Whatever takes long looks here now and then and gives up with an
 * error; the run then ends as one that goes on later, not as one that failed. */
#ifndef KS_BASE_STOP_H
#define KS_BASE_STOP_H

#include <stdbool.h>

#include "base/error.h"

/* From now on the signals ask for a stop; a second SIGINT ends the process. */
void ks_stop_catch_signals(void);

/* Whether a stop was asked for. */
bool ks_stop_requested(void);

/* Seconds since a stop was asked for; negative: none was. */
double ks_stop_age(void);

/* So long after it a run still waits for a rank that says nothing or does not come. */
enum { KS_STOP_SECONDS = 60 };

/* 0, or -1 with "stopped by a signal while <doing>" when a stop was asked for. */
int ks_stop_check(const char *doing, ks_error *err);

#endif
