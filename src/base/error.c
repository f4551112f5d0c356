#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int ks_error_set(ks_error *err, const char *format, ...)
{
    if (!err)
        return -1;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return -1;
}

int ks_error_wrap(ks_error *err, const char *format, ...)
{
    if (!err)
        return -1;
    char inner[KS_ERROR_TEXT];
    memcpy(inner, err->text, sizeof inner);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n + 2 >= sizeof err->text)
        return -1;
    size_t used = (size_t)n + 2, room = sizeof err->text - used;
    memcpy(err->text + n, ": ", 2);
    memcpy(err->text + used, inner, room);
    err->text[sizeof err->text - 1] = '\0';
    return -1;
}
