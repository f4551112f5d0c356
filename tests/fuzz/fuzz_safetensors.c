/* libFuzzer target: any bytes as a safetensors file; with an odd first byte, its header's length is
 * put right first (all but the last bytes, as many as the second byte says). Whatever opens is read
 * to the last value, and looked at as a model.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/config.h"
#include "model/safetensors.h"
#include "scratch.h"

static void read_all(const ks_safetensors *st)
{
    for (int i = 0; i < ks_safetensors_count(st); i++) {
        ks_view view;
        if (!ks_safetensors_find(st, ks_safetensors_name(st, i), &view))
            continue;
        int64_t n = ks_view_elements(&view);
        float *out = malloc((size_t)n * sizeof *out + 1);
        if (out)
            ks_view_floats(&view, out, NULL);
        free(out);
    }
}

/* The bytes as a file, or with the length of the header put right. */
static int make_file(const uint8_t *data, size_t size, char path[64])
{
    if (size < 2 || data[0] % 2 == 0)
        return fuzz_file(data, size, path);
    uint64_t rest = size - 2, length = data[1] < rest ? rest - data[1] : rest;
    uint8_t *whole = malloc(sizeof length + rest);
    if (!whole)
        abort();
    memcpy(whole, &length, sizeof length);
    memcpy(whole + sizeof length, data + 2, rest);
    int fd = fuzz_file(whole, sizeof length + rest, path);
    free(whole);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    ks_error err = KS_ERROR_NONE;
    int fd = make_file(data, size, path);
    ks_safetensors *st = ks_safetensors_open(path, &err);
    if (st) {
        ks_model_config config;
        read_all(st);
        ks_model_detect(st, &config, &err);
    } else if (!err.text[0]) {
        abort();
    }
    ks_safetensors_close(st);
    close(fd);
    return 0;
}
