#include "base/units.h"

#include <stdio.h>

void ks_size_text(double bytes, char *text, int size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 6) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, (size_t)size, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}

void ks_duration_text(double seconds, char *text, int size)
{
    enum { DAY = 86400 };
    if (!(seconds >= 0 && seconds < 1e15)) {
        snprintf(text, (size_t)size, "?");
        return;
    }
    long s = (long)(seconds + 0.5), days = s / DAY, h = s / 3600, m = s / 60 % 60;
    if (days)
        snprintf(text, (size_t)size, "%ld day%s %ld h", days, days == 1 ? "" : "s", h % 24);
    else if (h)
        snprintf(text, (size_t)size, "%ld:%02ld:%02ld", h, m, s % 60);
    else
        snprintf(text, (size_t)size, "%ld:%02ld", m, s % 60);
}
