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
