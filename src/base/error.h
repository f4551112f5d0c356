/* Errors that carry their text upward.
 *
 * A function that can fail returns 0 or -1 (or NULL) and takes a `ks_error *` last. The innermost
 * call writes one sentence that names the file, the key or the rank; outer calls add where they
 * were with ks_error_wrap; src/cli prints it once. Passing NULL for err is allowed. */
#ifndef KS_BASE_ERROR_H
#define KS_BASE_ERROR_H

#include "ksweep/error.h"

/* Writes the sentence (cut to fit) and returns -1: `return ks_error_set(err, ...)` reads well. */
int ks_error_set(ks_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "<formatted>: " before the text that is there and returns -1. */
int ks_error_wrap(ks_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
