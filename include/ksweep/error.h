/* Errors that carry their text upward.
 *
 * A function that can fail returns 0 or -1 (or NULL) and takes a `ks_error *` last. Passing NULL for it is allowed. */
#ifndef KSWEEP_ERROR_H
#define KSWEEP_ERROR_H

enum { KS_ERROR_TEXT = 1024 };

typedef struct ks_error {
    char text[KS_ERROR_TEXT]; /* one line, no newline; "" when nothing went wrong */
} ks_error;

#define KS_ERROR_NONE ((ks_error){{0}})

#endif
