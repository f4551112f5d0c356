#include "cluster/layout.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"

enum { WAIT_SECONDS = 5 };

static char *layout_path(const char *folder)
{
    return ks_format("%s/layout", folder);
}

/* 1: written; 0: it is there already. */
static int write_layout(const char *path, const char *backend, const char *precision, int rows,
                        ks_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST)
        return 0;
    bool written = fd >= 0 && dprintf(fd, "%s %s %d\n", backend, precision, rows) > 0;
    if ((fd < 0 || close(fd) == 0) && written)
        return 1;
    return ks_error_set(err, "%s: cannot write: %s", path, strerror(errno));
}

/* Puts a whole file in the place of one that whoever made it did not live to write. Of several who do this at once the last one
 * decides, which all of them read a second later. */
static int replace_layout(const char *path, const char *backend, const char *precision, int rows, ks_error *err)
{
    char *mine = ks_format("%s.%ld", path, (long)getpid());
    int rc = write_layout(mine, backend, precision, rows, err) < 0 ? -1 : 0;
    if (!rc && rename(mine, path))
        rc = ks_error_set(err, "%s: cannot rename it to %s: %s", mine, path, strerror(errno));
    unlink(mine);
    free(mine);
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    return rc;
}

/* Reads it once it is complete: whoever made the file may still be writing. */
static int read_layout(const char *path, char backend[16], char precision[16], int *rows,
                       ks_error *err)
{
    for (double start = ks_seconds(); ks_seconds() - start < WAIT_SECONDS;) {
        FILE *f = fopen(path, "r");
        char end = 0;
        int found = f ? fscanf(f, "%15s %15s %d%c", backend, precision, rows, &end) : 0;
        if (f)
            fclose(f);
        if (found == 4 && end == '\n' && *rows > 0)
            return 0;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return ks_error_set(err,
                        "%s: does not say how the other parts render; remove it when none of "
                        "them runs",
                        path);
}

int ks_layout_agree(const char *folder, const char *backend, const char *precision, int *rows,
                    ks_error *err)
{
    char *path = layout_path(folder), there_backend[16], there_precision[16];
    int written = write_layout(path, backend, precision, *rows, err), rc = written < 0 ? -1 : 0;
    if (written == 0) {
        int own = *rows;
        rc = read_layout(path, there_backend, there_precision, rows, err);
        if (rc && !replace_layout(path, backend, precision, own, err))
            rc = read_layout(path, there_backend, there_precision, rows, err);
        if (!rc && (strcmp(backend, there_backend) || strcmp(precision, there_precision)))
            rc = ks_error_set(err,
                              "%s: the other parts render on %s in %s, this one would on %s in "
                              "%s: give all the same \"device\" and \"precision\"",
                              path, there_backend, there_precision, backend, precision);
    }
    free(path);
    return rc;
}

void ks_layout_clear(const char *folder)
{
    char *path = layout_path(folder);
    unlink(path);
    free(path);
}
