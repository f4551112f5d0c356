/* CLIP's byte-level BPE (Radford et al. 2021; vocab.json + merges.txt). */
#ifndef KS_MODEL_TOKENIZER_H
#define KS_MODEL_TOKENIZER_H

#include <stdint.h>

#include "base/error.h"

typedef struct ks_tokenizer ks_tokenizer;

/* folder holds vocab.json (every token's id, 0 to count - 1 without holes; the 256 bytes alone and
 * as the end of a word among them) and merges.txt (a pair of tokens a line, the first goes first).
 * Fails where a merge names or makes a token that the vocabulary does not have. */
ks_tokenizer *ks_tokenizer_open(const char *folder, ks_error *err);
void ks_tokenizer_free(ks_tokenizer *t);

/* The folder of the tokenizer that belongs to a model file: <stem>.tokenizer/, or tokenizer/ beside
 * it. free() it; NULL and err when there is none. */
char *ks_tokenizer_find(const char *model_path, ks_error *err);

int ks_tokenizer_vocab(const ks_tokenizer *t);
int32_t ks_tokenizer_start(const ks_tokenizer *t);
int32_t ks_tokenizer_end(const ks_tokenizer *t);

/* The words' ids without start and end; *ids is new memory (free() it). text must be UTF-8 and is
 * taken as it stands: brackets and weights in it are text. It is normalised to NFC and lower-cased;
 * "<|startoftext|>" and "<|endoftext|>" in it give those tokens. Safe from several threads. */
int ks_tokenizer_encode(const ks_tokenizer *t, const char *text, int32_t **ids, int *count,
                        ks_error *err);

#endif
