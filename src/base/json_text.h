/* JSON text made ready for cJSON, which is lax about syntax and keeps numbers as doubles. */
#ifndef KS_BASE_JSON_TEXT_H
#define KS_BASE_JSON_TEXT_H

#include <stddef.h>
#include <stdio.h>

#include "base/error.h"

/* Stands at the start of a string that is really a whole number kept digit by digit. No text of a
 * user can hold it: the byte occurs nowhere in UTF-8. */
enum { KS_JSON_DIGITS_MARK = 0xFF };

/* A copy of the text (NUL at its end, free() it) that is strict RFC 8259 but for one thing: whole
 * numbers of more than 15 digits have become strings of KS_JSON_DIGITS_MARK and their digits.
 * NULL with "<name>:<line>:<column>: ..." when the text is not JSON, not UTF-8, holds a NUL (raw or
 * as \u0000), nests more than 100 levels deep or has more than 2^24 values. */
char *ks_json_prepare(const char *name, const char *text, size_t size, size_t *prepared,
                      ks_error *err);

/* Bytes of the well-formed UTF-8 sequence at p, of at most room bytes; 0 when it is none. A NUL is
 * none. */
size_t ks_utf8_sequence(const unsigned char *p, size_t room);

/* Writes the text (UTF-8) as a JSON string. */
void ks_json_write_string(FILE *out, const char *text);

#endif
