/* libFuzzer target: any bytes as a safetensors file; with an odd first byte, its header's length is
 * put right first (all but the last bytes, as many as the second byte says). Whatever opens is read
 * to the last value, and looked at as a model.
 *
 * Build: clang -g -O1 -std=c17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -Isrc -Iinclude
 *        tests/fuzz/fuzz_safetensors.c src/model/safetensors.c src/model/config*.c
 *        src/base/[a-z]*.c -lcjson -lxxhash -lcrypto -lpthread -lm */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/config.h"
#include "model/safetensors.h"

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

static void put(int fd, const void *data, size_t size)
{
    if (write(fd, data, size) != (ssize_t)size)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[40];
    int fd = memfd_create("fuzz", 0);
    if (fd < 0)
        abort();
    if (size >= 2 && data[0] % 2) {
        uint64_t rest = size - 2, length = data[1] < rest ? rest - data[1] : rest;
        put(fd, &length, sizeof length);
        put(fd, data + 2, rest);
    } else {
        put(fd, data, size);
    }
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ks_safetensors *st = ks_safetensors_open(path, NULL);
    if (st) {
        ks_model_config config;
        ks_error err;
        read_all(st);
        ks_model_detect(st, &config, &err);
    }
    ks_safetensors_close(st);
    close(fd);
    return 0;
}
