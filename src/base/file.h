/* Files and paths. */
#ifndef KS_BASE_FILE_H
#define KS_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

/* A whole file mapped read-only. An empty file maps to data == NULL, size == 0. */
typedef struct ks_map {
    const unsigned char *data;
    size_t size;
} ks_map;

int ks_map_open(const char *path, ks_map *map, ks_error *err);
void ks_map_close(ks_map *map);

/* Whether it is a regular file that can be read and begins with these bytes, 256 at most. */
bool ks_file_begins(const char *path, const void *bytes, size_t count);

/* The file's bytes with a NUL behind them; free() it. Refuses more than limit bytes. */
char *ks_read_file(const char *path, size_t limit, size_t *size, ks_error *err);

/* path as seen from the folder of the file `base`: absolute paths stay. free() it; NULL without
 * memory. */
char *ks_path_beside(const char *base, const char *path);

/* The path with its last extension (of the last component) replaced: "a/b.c" and ".json" give
 * "a/b.json". free() it. */
char *ks_path_with_extension(const char *path, const char *extension);

/* printf into new memory; free() it. Aborts when there is no memory: for small texts only. */
char *ks_format(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* strdup and calloc that abort when there is no memory: for small things only. */
char *ks_strdup(const char *text);
void *ks_calloc(size_t count, size_t size);
void *ks_realloc(void *old, size_t count, size_t size);

/* Seconds on a clock that never goes back. */
double ks_seconds(void);

#endif
