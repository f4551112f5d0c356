/* What a picture may be written over. */
#ifndef KS_STORE_OVERWRITE_H
#define KS_STORE_OVERWRITE_H

#include "base/error.h"

/* Whether a PNG may be written to `png`: 0 when nothing is there, or a PNG file. -1 for the output OUT, whatever name leads to it,
 * what is or would be in its folder of shards, and every other file that is there. */
int ks_overwrite_check(const char *out, const char *png, ks_error *err);

#endif
