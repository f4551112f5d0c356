#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* "<path>: cannot <what>: <reason of errno>"; returns -1. */
static int fail(ks_error *err, const char *path, const char *what)
{
    return ks_error_set(err, "%s: cannot %s: %s", path, what, strerror(errno));
}

static int open_to_read(const char *path, ks_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? fail(err, path, "open") : fd;
}

/* Maps size bytes of an open file; an empty file needs no mapping. */
static int map_bytes(const char *path, int fd, size_t size, ks_map *map, ks_error *err)
{
    if (size == 0)
        return 0;
    void *data = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED)
        return fail(err, path, "map");
    map->data = data;
    map->size = size;
    return 0;
}

int ks_map_open(const char *path, ks_map *map, ks_error *err)
{
    *map = (ks_map){NULL, 0};
    int fd = open_to_read(path, err);
    if (fd < 0)
        return -1;
    struct stat st;
    int status;
    if (fstat(fd, &st) != 0)
        status = fail(err, path, "read");
    else if (S_ISDIR(st.st_mode))
        status = ks_error_set(err, "%s: is a folder, a file is wanted", path);
    else if (!S_ISREG(st.st_mode))
        status = ks_error_set(err, "%s: is not a plain file", path);
    else
        status = map_bytes(path, fd, (size_t)st.st_size, map, err);
    close(fd);
    return status;
}

bool ks_file_begins(const char *path, const void *bytes, size_t count)
{
    unsigned char begin[256];
    struct stat status;
    bool readable = count <= sizeof begin && !stat(path, &status) && S_ISREG(status.st_mode);
    FILE *f = readable ? fopen(path, "rb") : NULL;
    bool begins = f && fread(begin, 1, count, f) == count && !memcmp(begin, bytes, count);
    if (f)
        fclose(f);
    return begins;
}

void ks_map_close(ks_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (ks_map){NULL, 0};
}

/* Reads fd to its end, or to one byte more than limit. NULL (errno tells) when a read fails. */
static char *read_to_end(int fd, size_t limit, size_t *size)
{
    size_t room = 1 << 16, used = 0;
    char *text = ks_realloc(NULL, room, 1);
    while (used <= limit) {
        if (used + 1 >= room) {
            room *= 2;
            text = ks_realloc(text, room, 1);
        }
        ssize_t n = read(fd, text + used, room - used - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int reason = errno;
            free(text);
            errno = reason;
            return NULL;
        }
        if (n == 0)
            break;
        used += (size_t)n;
    }
    text[used] = '\0';
    *size = used;
    return text;
}

char *ks_read_file(const char *path, size_t limit, size_t *size, ks_error *err)
{
    int fd = open_to_read(path, err);
    if (fd < 0)
        return NULL;
    char *text = read_to_end(fd, limit, size);
    if (!text)
        fail(err, path, "read");
    close(fd);
    if (text && *size > limit) {
        ks_error_set(err, "%s: is larger than the %zu bytes that such a file may have", path,
                     limit);
        free(text);
        return NULL;
    }
    return text;
}

char *ks_path_beside(const char *base, const char *path)
{
    const char *slash = strrchr(base, '/');
    if (path[0] == '/' || !slash)
        return strdup(path);
    size_t folder = (size_t)(slash - base) + 1, name = strlen(path);
    char *joined = malloc(folder + name + 1);
    if (!joined)
        return NULL;
    memcpy(joined, base, folder);
    memcpy(joined + folder, path, name + 1);
    return joined;
}

char *ks_path_with_extension(const char *path, const char *extension)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    const char *dot = strrchr(name, '.');
    size_t stem = dot && dot != name ? (size_t)(dot - path) : strlen(path);
    return ks_format("%.*s%s", (int)stem, path, extension);
}

static _Noreturn void out_of_memory(void)
{
    fputs("ksweep: out of memory\n", stderr);
    abort();
}

char *ks_format(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0)
        out_of_memory();
    return text;
}

char *ks_strdup(const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        out_of_memory();
    return copy;
}

void *ks_calloc(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size ? size : 1);
    if (!memory)
        out_of_memory();
    return memory;
}

void *ks_realloc(void *old, size_t count, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes))
        out_of_memory();
    void *memory = realloc(old, bytes ? bytes : 1);
    if (!memory)
        out_of_memory();
    return memory;
}

double ks_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}
