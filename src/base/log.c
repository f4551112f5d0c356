#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/file.h"

enum { LINE = 2048 };

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
    char line[LINE], stamp[16] = "", rank[24] = "";
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

/* Whether the line is new; it is kept until the process ends. */
static bool is_new(const char *line)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static char **said;
    static size_t count;
    pthread_mutex_lock(&lock);
    size_t i = 0;
    while (i < count && strcmp(said[i], line))
        i++;
    bool new = i == count;
    if (new) {
        said = ks_realloc(said, count + 1, sizeof *said);
        said[count++] = ks_strdup(line);
    }
    pthread_mutex_unlock(&lock);
    return new;
}

void ks_log_once(ks_log_level level, const char *format, ...)
{
    char line[LINE];
    if (level > log_level)
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (is_new(line))
        ks_log(level, "%s", line);
}
