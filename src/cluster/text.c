#include "cluster/text.h"

#include <stdarg.h>
#include <stdio.h>

#include "base/file.h"

void ks_text_add(ks_text *text, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n > 0) {
        text->bytes = ks_realloc(text->bytes, text->size + (size_t)n + 1, 1);
        vsnprintf(text->bytes + text->size, (size_t)n + 1, format, again);
        text->size += (size_t)n;
    }
    va_end(again);
}

void ks_size_text(double bytes, char *out, int size)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    int unit = 0;
    while (bytes >= 1024 && unit < 6) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, (size_t)size, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
}
