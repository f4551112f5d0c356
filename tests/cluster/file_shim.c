/* Preloaded into a program under test: makes its file operations fail or kill it, where a test says.
 *
 *   KSWEEP_FAULT_PATH   only operations on paths that begin with this count
 *   KSWEEP_FAULT_LOG    a file that gets one line for each of them: "<operation> <path>"
 *   KSWEEP_FAULT_KILL   N: SIGKILL in place of the Nth of them, counted from 1
 *   KSWEEP_FAULT_TEAR   N: the same, but a write that the Nth is reaches the file up to a page boundary inside of
 *                       it, as a kill can leave it
 *   KSWEEP_FAULT_ERRNO  a number: operations fail with this errno ...
 *   KSWEEP_FAULT_WHEN   ... from the time on that this file exists
 *
 * Operations are those that change files: making, writing, cutting, syncing, renaming and removing. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static atomic_long operations;

/* The next function of a name, in the library that really has it. */
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static bool counts(const char *path)
{
    const char *prefix = getenv("KSWEEP_FAULT_PATH");
    return prefix && path && !strncmp(path, prefix, strlen(prefix));
}

static void note(const char *name, const char *path)
{
    const char *log = getenv("KSWEEP_FAULT_LOG");
    char line[4352];
    int n = snprintf(line, sizeof line, "%s %s\n", name, path);
    int fd = log ? REAL(open)(log, O_WRONLY | O_CREAT | O_APPEND, 0666) : -1;
    if (fd >= 0 && (n < 0 || REAL(write)(fd, line, (size_t)n) != n))
        abort(); /* the log would miss an operation */
    if (fd >= 0)
        close(fd);
}

static long number_in(const char *variable)
{
    const char *text = getenv(variable);
    return text ? strtol(text, NULL, 10) : 0;
}

/* What is to come of an operation: 0 it is done as it is, -1 it fails with errno, 1 the process dies in it. */
static int meddle(const char *name, const char *path)
{
    if (!counts(path))
        return 0;
    note(name, path);
    long number = ++operations;
    const char *when = getenv("KSWEEP_FAULT_WHEN");
    if (number == number_in("KSWEEP_FAULT_KILL"))
        raise(SIGKILL);
    if (number == number_in("KSWEEP_FAULT_TEAR"))
        return 1;
    if (!when || access(when, F_OK))
        return 0;
    errno = (int)number_in("KSWEEP_FAULT_ERRNO");
    return -1;
}

/* The same for what has no halves. */
static int meddle_whole(const char *name, const char *path)
{
    int outcome = meddle(name, path);
    if (outcome > 0)
        raise(SIGKILL);
    return outcome;
}

static int meddle_file(const char *name, int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return meddle(name, path);
}

static int meddle_whole_file(const char *name, int fd)
{
    int outcome = meddle_file(name, fd);
    if (outcome > 0)
        raise(SIGKILL);
    return outcome;
}

#define OPEN(name)                                                                            \
    int name(const char *path, int flags, ...)                                                \
    {                                                                                         \
        va_list args;                                                                         \
        va_start(args, flags);                                                                \
        mode_t mode = flags & O_CREAT ? (mode_t)va_arg(args, int) : 0;                        \
        va_end(args);                                                                         \
        bool changes = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR);                       \
        return changes && meddle_whole("open", path) ? -1 : REAL(name)(path, flags, mode);    \
    }
OPEN(open)
OPEN(open64)

#define FOPEN(name)                                                                           \
    FILE *name(const char *path, const char *mode)                                            \
    {                                                                                         \
        return mode[0] != 'r' && meddle_whole("open", path) ? NULL : REAL(name)(path, mode);  \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* Bytes of a write that end at the middle one of the page boundaries inside of it; 0: there is none. */
static size_t torn_size(long long at, size_t size)
{
    const long long page = 4096;
    long long first = at / page + 1, last = (at + (long long)size - 1) / page;
    return size && last >= first ? (size_t)((first + last) / 2 * page - at) : 0;
}

#define PWRITE(name, offset_type)                                                             \
    ssize_t name(int fd, const void *data, size_t size, offset_type at)                       \
    {                                                                                         \
        int outcome = meddle_file("write", fd);                                               \
        if (outcome > 0 && REAL(name)(fd, data, torn_size(at, size), at) >= 0)                \
            raise(SIGKILL);                                                                   \
        return outcome ? -1 : REAL(name)(fd, data, size, at);                                 \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t write(int fd, const void *data, size_t size)
{
    return meddle_whole_file("write", fd) ? -1 : REAL(write)(fd, data, size);
}

#define TRUNCATE(name, offset_type)                                                           \
    int name(int fd, offset_type size)                                                        \
    {                                                                                         \
        return meddle_whole_file("truncate", fd) ? -1 : REAL(name)(fd, size);                 \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

int fsync(int fd)
{
    return meddle_whole_file("sync", fd) ? -1 : REAL(fsync)(fd);
}

int rename(const char *from, const char *to)
{
    return meddle_whole("rename", from) ? -1 : REAL(rename)(from, to);
}

int unlink(const char *path)
{
    return meddle_whole("unlink", path) ? -1 : REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode)
{
    return meddle_whole("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}

int rmdir(const char *path)
{
    return meddle_whole("rmdir", path) ? -1 : REAL(rmdir)(path);
}

int utimensat(int folder, const char *path, const struct timespec times[2], int flags)
{
    return meddle_whole("touch", path) ? -1 : REAL(utimensat)(folder, path, times, flags);
}
