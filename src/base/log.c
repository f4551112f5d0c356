#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>

static ks_log_level log_level = KS_LOG_INFO;
static int log_rank = -1;

void ks_log_set_level(ks_log_level level)
{
    log_level = level;
}

void ks_log_set_rank(int rank)
{
    log_rank = rank;
}

void ks_log(ks_log_level level, const char *format, ...)
{
    static const char *const names[] = {"error", "warning", "info", "debug"};
    if (level > log_level)
        return;
    char line[2048], stamp[16] = "", rank[24] = "";
    time_t now = time(NULL);
    struct tm local;
    if (localtime_r(&now, &local))
        strftime(stamp, sizeof stamp, "%H:%M:%S", &local);
    if (log_rank >= 0)
        snprintf(rank, sizeof rank, " [rank %d]", log_rank);
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "%s%s %s: %s\n", stamp, rank, names[level], line);
}
