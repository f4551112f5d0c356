/* Text as CLIP's tokenizer sees it: normalised, lower-cased and cut into words. */
#ifndef KS_MODEL_CLIP_TEXT_H
#define KS_MODEL_CLIP_TEXT_H

#include <stddef.h>

#include "base/error.h"

extern const char ks_clip_start[], ks_clip_end[]; /* "<|startoftext|>", "<|endoftext|>" */

/* NFC, then lower case (Unicode 14, chapters 3.11 and 3.13). New memory (free() it); NULL where
 * text is not UTF-8. */
char *ks_clip_normalise(const char *text, ks_error *err);

/* The first word at or behind *at of a normalised text, by CLIP's pattern: the two special tokens;
 * 's 't 're 've 'm 'll 'd; a run of letters; one digit; a run of anything else but white space.
 * Returns its bytes, its place in *at; 0 when only white space is left. */
size_t ks_clip_word(const char *text, size_t *at);

#endif
