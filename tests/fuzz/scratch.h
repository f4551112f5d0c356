/* What the fuzz targets share: a file of any bytes, and taking an input apart. */
#ifndef TESTS_FUZZ_SCRATCH_H
#define TESTS_FUZZ_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A file in memory that holds the bytes, open; aborts where there is none to be had. path: by which it can be opened, as
 * long as the returned descriptor is. */
int fuzz_file(const void *data, size_t size, char path[64]);

/* An input that is taken apart from its front. What is asked for behind its end is 0. */
typedef struct fuzz_input {
    const uint8_t *data;
    size_t size;
} fuzz_input;

uint8_t fuzz_byte(fuzz_input *in);
uint32_t fuzz_u32(fuzz_input *in);
uint64_t fuzz_u64(fuzz_input *in);
bool fuzz_flag(fuzz_input *in); /* one time in eight, so that most things stay as they should be */

/* At most size bytes into out, the rest of it zeros. */
void fuzz_bytes(fuzz_input *in, void *out, size_t size);

/* What libFuzzer, or replay.c without it, calls with every input. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
