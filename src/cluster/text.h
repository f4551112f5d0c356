/* Texts that are put together piece by piece. */
#ifndef KS_CLUSTER_TEXT_H
#define KS_CLUSTER_TEXT_H

#include <stddef.h>

/* bytes: new memory, NUL at its end, NULL while empty; the owner frees it. */
typedef struct ks_text {
    char *bytes;
    size_t size;
} ks_text;

void ks_text_add(ks_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
