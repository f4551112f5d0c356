#include "store/overwrite.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "store/png.h"
#include "store/store.h"

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static const char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The folder that a path is in; free() it. */
static char *folder_of(const char *path)
{
    const char *name = name_of(path);
    return name == path ? ks_strdup(".") : ks_format("%.*s", (int)(name - path), path);
}

static bool same_folder(const char *a, const char *b)
{
    struct stat x, y;
    char *of_a = folder_of(a), *of_b = folder_of(b);
    bool same = !stat(of_a, &x) && !stat(of_b, &y) && same_file(&x, &y);
    free(of_a);
    free(of_b);
    return same;
}

/* Whether both paths are of one file, also where there is none yet. */
static bool same_place(const char *a, const char *b)
{
    struct stat x, y;
    bool is_a = !stat(a, &x), is_b = !stat(b, &y);
    if (is_a || is_b)
        return is_a && is_b && same_file(&x, &y);
    return !strcmp(name_of(a), name_of(b)) && same_folder(a, b);
}

/* Whether a path leads to what is or would be in a folder, or in one below it. */
static bool is_within(const char *path, const char *folder)
{
    struct stat wanted, at, above;
    char *real = realpath(path, NULL), *place = folder_of(real ? real : path);
    bool found = false, end = stat(folder, &wanted) || stat(place, &at);
    while (!end && !(found = same_file(&at, &wanted))) {
        char *up = ks_format("%s/..", place);
        free(place);
        place = up;
        end = stat(place, &above) || same_file(&at, &above);
        if (!end)
            at = above;
    }
    free(real);
    free(place);
    return found;
}

static int check_png(const char *path, ks_error *err)
{
    struct stat status;
    if (stat(path, &status))
        return errno == ENOENT ? 0 : ks_error_set(err, "%s: cannot be written: %s", path, strerror(errno));
    if (ks_png_is(path))
        return 0;
    return ks_error_set(err, "%s: is there and is no PNG file: name another file with -o", path);
}

int ks_overwrite_check(const char *out, const char *png, ks_error *err)
{
    char *dir = ks_store_dir(out);
    int rc;
    if (same_place(out, png))
        rc = ks_error_set(err, "%s: is the output itself: name another file with -o", png);
    else if (is_within(png, dir))
        rc = ks_error_set(err, "%s: is in %s, the folder of the output's shards: name another file with -o", png, dir);
    else
        rc = check_png(png, err);
    free(dir);
    return rc;
}
