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
static int write_layout(const char *path, const ks_layout *own, ks_error *err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST)
        return 0;
    bool written = fd >= 0 && dprintf(fd, "%s %s %d %d %d\n", own->backend, own->precision, own->tensor, own->rows, own->batch_rows) > 0;
    if ((fd < 0 || close(fd) == 0) && written)
        return 1;
    return ks_error_set(err, "%s: cannot write: %s", path, strerror(errno));
}

/* Puts a whole file in the place of one that whoever made it did not live to write. Of several who do this at once the last one
 * decides, which all of them read a second later. */
static int replace_layout(const char *path, const ks_layout *own, ks_error *err)
{
    char *mine = ks_format("%s.%ld", path, (long)getpid());
    int rc = write_layout(mine, own, err) < 0 ? -1 : 0;
    if (!rc && rename(mine, path))
        rc = ks_error_set(err, "%s: cannot rename it to %s: %s", mine, path, strerror(errno));
    unlink(mine);
    free(mine);
    nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    return rc;
}

/* Reads it once it is complete: whoever made the file may still be writing. */
static int read_layout(const char *path, ks_layout *there, ks_error *err)
{
    for (double start = ks_seconds(); ks_seconds() - start < WAIT_SECONDS;) {
        FILE *f = fopen(path, "r");
        char end = 0;
        int found = f ? fscanf(f, "%15s %15s %d %d %d%c", there->backend, there->precision, &there->tensor, &there->rows,
                               &there->batch_rows, &end) : 0;
        if (f)
            fclose(f);
        if (found == 6 && end == '\n' && there->batch_rows > 0)
            return 0;
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    }
    return ks_error_set(err,
                        "%s: does not say how the other parts render; remove it when none of "
                        "them runs",
                        path);
}

/* The parts' keys are the same, so all but the batch rows must be. */
static int compare(const char *path, const ks_layout *own, const ks_layout *there, ks_error *err)
{
    if (strcmp(own->backend, there->backend) || strcmp(own->precision, there->precision))
        return ks_error_set(err,
                            "%s: the other parts render on %s in %s, this one would on %s in "
                            "%s: give all the same \"device\" and \"precision\"",
                            path, there->backend, there->precision, own->backend, own->precision);
    if (own->tensor == there->tensor && own->rows == there->rows)
        return 0;
    return ks_error_set(err, "%s: the other parts render with \"parallel\" tensor %d and rows %d, this one would with tensor %d and "
                        "rows %d: give all the same", path, there->tensor, there->rows, own->tensor, own->rows);
}

int ks_layout_agree(const char *folder, ks_layout *own, ks_error *err)
{
    char *path = layout_path(folder);
    ks_layout there = {0};
    int written = write_layout(path, own, err), rc = written < 0 ? -1 : 0;
    if (written == 0) {
        rc = read_layout(path, &there, err);
        if (rc && !replace_layout(path, own, err))
            rc = read_layout(path, &there, err);
        if (!rc)
            rc = compare(path, own, &there, err);
        if (!rc)
            own->batch_rows = there.batch_rows;
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
