#include "cluster/share.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/hash.h"

enum { PIECE = 16 << 20 }; /* bytes of a read */

/* What a node's first rank tells the others. */
typedef struct offer {
    int64_t status; /* -1: it could not read the file; 0: there is no memory to share; 1: there is */
    int64_t process, fd;
    uint64_t size;
    char name[40]; /* of the memory: a number of a process may mean another one elsewhere */
} offer;

/* Maps a file by itself. */
static int map_alone(ks_shared_file *f, const char *path, ks_error *err)
{
    if (ks_map_open(path, &f->map, err))
        return -1;
    f->bytes_read = f->map.size;
    return 0;
}

/* size bytes of an open file to `to`. */
static int read_all(const char *path, int fd, unsigned char *to, uint64_t size, ks_error *err)
{
    for (uint64_t at = 0; at < size;) {
        size_t piece = size - at < PIECE ? (size_t)(size - at) : PIECE;
        ssize_t n = pread(fd, to + at, piece, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return ks_error_set(err, "%s: cannot read: %s", path, strerror(errno));
        if (n == 0)
            return ks_error_set(err, "%s: became shorter while it was read", path);
        at += (uint64_t)n;
    }
    return 0;
}

/* New memory that other processes can map, for writing; NULL when there is not enough. */
static unsigned char *new_memory(offer *o, uint64_t size)
{
    uint8_t random[16];
    char hex[2 * sizeof random + 1];
    if (getrandom(random, sizeof random, 0) != (ssize_t)sizeof random)
        return NULL;
    ks_hex(random, sizeof random, hex);
    snprintf(o->name, sizeof o->name, "ksweep-%s", hex);
    int fd = memfd_create(o->name, MFD_CLOEXEC);
    if (fd < 0)
        return NULL;
    void *memory = posix_fallocate(fd, 0, (off_t)size) ? MAP_FAILED : mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        close(fd);
        return NULL;
    }
    o->fd = fd;
    return memory;
}

/* The first rank's part: the file's bytes in memory, told in o. Without memory nothing is shared and it maps the file. */
static int read_to_share(ks_shared_file *f, const char *path, offer *o, ks_error *err)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC), status = 0;
    bool plain = fd >= 0 && !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_size > 0;
    unsigned char *memory = plain ? new_memory(o, (uint64_t)st.st_size) : NULL;
    if (memory) {
        o->size = (uint64_t)st.st_size;
        o->process = getpid();
        f->fd = (int)o->fd;
        f->map = (ks_map){memory, o->size};
        status = read_all(path, fd, memory, o->size, err);
        f->bytes_read = o->size;
        mprotect(memory, o->size, PROT_READ);
    } else {
        status = map_alone(f, path, err); /* also says what is wrong with the file */
    }
    if (fd >= 0)
        close(fd);
    o->status = status ? -1 : memory != NULL;
    return status;
}

/* The memory of an offer; data NULL when it cannot be reached from here. */
static ks_map take_offer(const offer *o)
{
    char path[64], link[128], wanted[64];
    ks_map map = {NULL, 0};
    snprintf(path, sizeof path, "/proc/%lld/fd/%lld", (long long)o->process, (long long)o->fd);
    ssize_t n = readlink(path, link, sizeof link - 1);
    link[n > 0 ? n : 0] = 0;
    int length = snprintf(wanted, sizeof wanted, "/memfd:%s", o->name);
    int fd = strncmp(link, wanted, (size_t)length) ? -1 : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return map;
    void *data = mmap(NULL, o->size, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (data != MAP_FAILED)
        map = (ks_map){data, o->size};
    return map;
}

int ks_shared_file_open(ks_shared_file *f, ks_comm *comm, const char *path, ks_error *err)
{
    offer o = {0};
    *f = (ks_shared_file){.fd = -1};
    if (ks_comm_local_size(comm) == 1)
        return map_alone(f, path, err);
    bool first = ks_comm_local_rank(comm) == 0;
    int status = first ? read_to_share(f, path, &o, err) : 0;
    if (ks_comm_node_broadcast(comm, &o, sizeof o, status ? NULL : err))
        return -1;
    if (first)
        return status;
    if (o.status < 0)
        return ks_error_set(err, "%s: could not be read by this node's first rank", path);
    if (o.status > 0)
        f->map = take_offer(&o);
    return f->map.data ? 0 : map_alone(f, path, err);
}

void ks_shared_file_close(ks_shared_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}
