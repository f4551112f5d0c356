#include "scratch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int fuzz_file(const void *data, size_t size, char path[64])
{
    int fd = memfd_create("fuzz", 0);
    if (fd < 0 || (size && write(fd, data, size) != (ssize_t)size))
        abort();
    snprintf(path, 64, "/proc/self/fd/%d", fd);
    return fd;
}

void fuzz_bytes(fuzz_input *in, void *out, size_t size)
{
    size_t n = size < in->size ? size : in->size;
    memset(out, 0, size);
    if (n)
        memcpy(out, in->data, n);
    in->data += n;
    in->size -= n;
}

uint8_t fuzz_byte(fuzz_input *in)
{
    uint8_t value;
    fuzz_bytes(in, &value, sizeof value);
    return value;
}

uint32_t fuzz_u32(fuzz_input *in)
{
    uint32_t value;
    fuzz_bytes(in, &value, sizeof value);
    return value;
}

uint64_t fuzz_u64(fuzz_input *in)
{
    uint64_t value;
    fuzz_bytes(in, &value, sizeof value);
    return value;
}

bool fuzz_flag(fuzz_input *in)
{
    return fuzz_byte(in) % 8 == 7;
}
