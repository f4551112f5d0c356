#include "store/checked.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

/* The file: a head, the files, the bitmaps, and a digest of all that. Numbers as they lie in memory. */
typedef struct head {
    char magic[16];
    uint64_t files, samples;
    ks_hash128 sweep;
} head;

static const char magic[16] = "ksweep checked1";
static const uint64_t MOST_SAMPLES = (uint64_t)1 << 32; /* whose bitmaps are kept: 1 GiB */

static uint64_t map_bytes(uint64_t samples)
{
    return samples ? (samples / 64 + 1) * sizeof(uint64_t) : 0;
}

static int64_t nanoseconds(const struct timespec *t)
{
    return (int64_t)t->tv_sec * 1000000000 + t->tv_nsec;
}

ks_file_mark ks_file_mark_of(const char *path)
{
    struct stat st;
    if (stat(path, &st))
        return (ks_file_mark){0};
    return (ks_file_mark){st.st_ino, (uint64_t)st.st_size, nanoseconds(&st.st_mtim), nanoseconds(&st.st_ctim)};
}

static void *copy(const unsigned char *from, uint64_t size)
{
    void *memory = ks_calloc(1, (size_t)size);
    memcpy(memory, from, (size_t)size);
    return memory;
}

/* Takes the bytes apart; false when they are not what ks_checked_write has written. */
static bool take(const ks_map *map, ks_checked *c)
{
    head h;
    ks_hash128 digest;
    if (map->size < sizeof h + sizeof digest)
        return false;
    size_t size = map->size - sizeof digest;
    memcpy(&h, map->data, sizeof h);
    memcpy(&digest, map->data + size, sizeof digest);
    ks_hash128 found = ks_hash(map->data, size);
    uint64_t bitmap = map_bytes(h.samples), files = h.files * sizeof *c->file;
    if (memcmp(h.magic, magic, sizeof magic) || !ks_hash_equal(&found, &digest) || h.samples > MOST_SAMPLES ||
        h.files > size || sizeof h + files + 2 * bitmap != size)
        return false;
    c->files = h.files;
    c->samples = h.samples;
    c->sweep = h.sweep;
    c->file = copy(map->data + sizeof h, files);
    c->done = h.samples ? copy(map->data + sizeof h + files, bitmap) : NULL;
    c->tried = h.samples ? copy(map->data + sizeof h + files + bitmap, bitmap) : NULL;
    return true;
}

static char *path_of(const char *dir)
{
    return ks_format("%s/checked", dir);
}

void ks_checked_read(const char *dir, ks_checked *c)
{
    char *path = path_of(dir);
    ks_map map;
    *c = (ks_checked){0};
    if (!ks_map_open(path, &map, NULL)) {
        take(&map, c);
        ks_map_close(&map);
    }
    free(path);
}

void ks_checked_free(ks_checked *c)
{
    free(c->file);
    free(c->done);
    free(c->tried);
    *c = (ks_checked){0};
}

const ks_checked_file *ks_checked_find(const ks_checked *c, int number, const ks_file_mark *mark)
{
    for (uint64_t i = 0; i < c->files; i++)
        if (c->file[i].number == number && !memcmp(&c->file[i].mark, mark, sizeof *mark))
            return &c->file[i];
    return NULL;
}

static char *part_of(const char *dir)
{
    return ks_format("%s/checked-%ld", dir, (long)getpid());
}

int ks_checked_begin(const char *dir, int64_t *now)
{
    char *path = part_of(dir);
    struct stat st;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd >= 0 && fstat(fd, &st)) {
        close(fd);
        unlink(path);
        fd = -1;
    }
    *now = fd >= 0 ? nanoseconds(&st.st_mtim) : 0;
    free(path);
    return fd;
}

/* All of it through a stream, with the digest at its end; false when any of it fails. */
static bool put(FILE *f, const ks_checked *c)
{
    uint64_t bitmap = map_bytes(c->samples), files = c->files * sizeof *c->file;
    size_t size = sizeof(head) + (size_t)(files + 2 * bitmap);
    unsigned char *bytes = ks_calloc(1, size);
    head *h = (head *)bytes;
    *h = (head){.files = c->files, .samples = c->samples, .sweep = c->sweep};
    memcpy(h->magic, magic, sizeof magic);
    memcpy(bytes + sizeof *h, c->file, files);
    if (bitmap) {
        memcpy(bytes + sizeof *h + files, c->done, bitmap);
        memcpy(bytes + sizeof *h + files + bitmap, c->tried, bitmap);
    }
    ks_hash128 digest = ks_hash(bytes, size);
    bool good = fwrite(bytes, 1, size, f) == size && fwrite(&digest, 1, sizeof digest, f) == sizeof digest;
    free(bytes);
    return good;
}

void ks_checked_write(const char *dir, int fd, const ks_checked *c)
{
    if (fd < 0)
        return;
    char *part = part_of(dir), *path = path_of(dir);
    FILE *f = fdopen(fd, "wb");
    bool good = f && c && c->samples <= MOST_SAMPLES && put(f, c);
    if (f ? fclose(f) : close(fd))
        good = false;
    if (!good || rename(part, path))
        unlink(part);
    free(part);
    free(path);
}

void ks_checked_remove(const char *dir)
{
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strcmp(e->d_name, "checked") && strncmp(e->d_name, "checked-", 8))
            continue;
        char *path = ks_format("%s/%s", dir, e->d_name);
        unlink(path);
        free(path);
    }
    if (d)
        closedir(d);
}
