#include "store/h5.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { LARGEST_TEXT = 1 << 30 }; /* bytes: more is a damaged file */

/* HDF5's clean-up at exit crashes on what a close that failed (full disk) has left. We close what
 * we open. */
static void start(void)
{
    H5dont_atexit();
    setenv("HDF5_USE_FILE_LOCKING", "FALSE", 0);
    H5open();
}

void ks_h5_start(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, start);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL); /* kept for each thread on its own */
}

bool ks_h5_is(const char *path)
{
    ks_h5_start();
    bool is = H5Fis_hdf5(path) > 0;
    H5Eclear2(H5E_DEFAULT);
    return is;
}

typedef struct reason {
    char system[256], inner[256];
} reason;

static void take_quoted(const char *text, char *out, size_t room)
{
    static const char mark[] = "error message = '";
    const char *from = strstr(text, mark);
    if (!from)
        return;
    from += sizeof mark - 1;
    const char *to = strchr(from, '\'');
    int n = to ? (int)(to - from) : (int)strlen(from);
    snprintf(out, room, "%.*s", n, from);
}

static herr_t see_entry(unsigned n, const H5E_error2_t *entry, void *data)
{
    (void)n;
    reason *r = data;
    const char *text = entry->desc ? entry->desc : "";
    if (!r->inner[0])
        snprintf(r->inner, sizeof r->inner, "%s", text);
    if (!r->system[0])
        take_quoted(text, r->system, sizeof r->system);
    return 0;
}

int ks_h5_fail(ks_error *err, const char *format, ...)
{
    char what[KS_ERROR_TEXT];
    reason r = {{0}, {0}};
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, see_entry, &r);
    H5Eclear2(H5E_DEFAULT);
    for (char *p = r.inner; *p; p++)
        if (*p == '\n')
            *p = ' ';
    const char *why = r.system[0] ? r.system : r.inner[0] ? r.inner : "HDF5 gives no reason";
    return ks_error_set(err, "%s: %s", what, why);
}

void ks_h5_close(hid_t *id)
{
    if (*id >= 0)
        H5Idec_ref(*id);
    *id = -1;
}

/* HDF5 reads metadata whose checksum fails again, as a writer may be in the midst of it, and
 * doubles its pause from 1 ns each time. Its own limit of 100 tries never ends; 26 take 0.13 s. */
enum { READ_ATTEMPTS = 26 };

hid_t ks_h5_file_access(void)
{
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    if (list < 0)
        return list;
#if H5_VERSION_GE(1, 10, 7) && !(H5_VERS_MAJOR == 1 && H5_VERS_MINOR == 12 && H5_VERS_RELEASE == 0)
    H5Pset_file_locking(list, 0, 1);
#endif
    return list;
}

/* Why a file that is there cannot be opened as HDF5. Returns -1. */
static int tell_kind(const char *path, ks_error *err)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    struct stat status;
    if (stat(path, &status))
        return ks_error_set(err, "%s: cannot open: %s", path, strerror(errno));
    if (S_ISDIR(status.st_mode))
        return ks_error_set(err, "%s: is a folder, a file is wanted", path);
    if (ks_file_begins(path, signature, sizeof signature))
        return ks_h5_fail(err, "%s: is truncated or damaged", path);
    return ks_error_set(err, "%s: is no HDF5 file", path);
}

hid_t ks_h5_open(const char *path, bool *plain, ks_error *err)
{
    ks_h5_start();
    if (access(path, R_OK))
        return ks_error_set(err, "%s: cannot open: %s", path, strerror(errno));
    hid_t list = ks_h5_file_access();
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, list);
    if (plain)
        *plain = file >= 0;
    H5Pset_metadata_read_attempts(list, READ_ATTEMPTS);
    if (file < 0)
        file = H5Fopen(path, H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, list);
    if (file < 0)
        tell_kind(path, err);
    H5Eclear2(H5E_DEFAULT);
    ks_h5_close(&list);
    return file;
}

int ks_h5_sync(const char *path, ks_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int status = fd < 0 || fsync(fd)
                     ? ks_error_set(err, "%s: cannot bring to disk: %s", path, strerror(errno))
                     : 0;
    if (fd >= 0)
        close(fd);
    return status;
}

int ks_h5_sync_folder(const char *path, ks_error *err)
{
    char *copy = ks_strdup(path), *folder = dirname(copy);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), status = 0;
    if (fd < 0 || (fsync(fd) && errno != EINVAL && errno != ENOTSUP))
        status = ks_error_set(err, "%s: cannot bring to disk: %s", folder, strerror(errno));
    if (fd >= 0)
        close(fd);
    free(copy);
    return status;
}

hid_t ks_h5_float_type(bool float16)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    if (!float16 || type < 0)
        return type;
    H5Tset_fields(type, 15, 10, 5, 0, 10);
    H5Tset_size(type, 2);
    H5Tset_ebias(type, 15);
    return type;
}

bool ks_h5_is_float16(hid_t type)
{
    return H5Tget_class(type) == H5T_FLOAT && H5Tget_size(type) == 2;
}

/* --- files that come from strangers --- */

/* Called when a name leads into another file; outside: a bool that notes it. */
static herr_t refuse_link(const char *parent, const char *group, const char *file, const char *object, unsigned *flags,
                          hid_t list, void *outside)
{
    (void)parent, (void)group, (void)file, (void)object, (void)flags, (void)list;
    *(bool *)outside = true;
    return -1;
}

static int lies_elsewhere(const char *path, const char *name, ks_error *err)
{
    return ks_error_set(err, "%s: /%s has its data in files elsewhere, which is refused: copy them into one file", path, name);
}

/* Whether the path stays beside or below the file that names it. */
static bool stays_below(const char *name)
{
    if (name[0] == '/')
        return false;
    for (const char *part = name; part; part = strchr(part, '/') ? strchr(part, '/') + 1 : NULL)
        if (!strncmp(part, "..", 2) && (part[2] == '/' || !part[2]))
            return false;
    return true;
}

/* Whether the data set of that file is a virtual one itself, or has its data elsewhere. HDF5 follows a circle of them until
 * the stack is full. A file that is not there is no harm: it reads as zeros. */
static bool leads_on(const char *path, const char *name)
{
    hid_t file = access(path, R_OK) ? -1 : ks_h5_open(path, NULL, NULL);
    hid_t set = file < 0 ? -1 : H5Dopen2(file, name, H5P_DEFAULT), list = set < 0 ? -1 : H5Dget_create_plist(set);
    bool leads = list >= 0 && (H5Pget_layout(list) == H5D_VIRTUAL || H5Pget_external_count(list) > 0);
    ks_h5_close(&list);
    ks_h5_close(&set);
    if (file >= 0)
        H5Fclose(file);
    return leads;
}

/* Whether all sources of a virtual data set in the file `path` are data sets of files below it. */
static bool sources_stay_below(const char *path, hid_t list)
{
    size_t count = 0;
    char name[4096], set[256], last[sizeof name] = "", last_set[sizeof set] = "";
    bool stay = H5Pget_virtual_count(list, &count) >= 0;
    for (size_t i = 0; i < count && stay; i++) {
        ssize_t n = H5Pget_virtual_filename(list, i, name, sizeof name);
        ssize_t m = H5Pget_virtual_dsetname(list, i, set, sizeof set);
        stay = n >= 0 && n < (ssize_t)sizeof name && m >= 0 && m < (ssize_t)sizeof set && stays_below(name) &&
               strcmp(name, ".");
        if (!stay || (!strcmp(name, last) && !strcmp(set, last_set)))
            continue;
        char *source = ks_path_beside(path, name);
        stay = source && !leads_on(source, set);
        free(source);
        strcpy(last, name);
        strcpy(last_set, set);
    }
    return stay;
}

static int check_storage(hid_t set, const char *path, const char *name, ks_error *err)
{
    hid_t list = H5Dget_create_plist(set);
    bool outside = list < 0 || H5Pget_external_count(list) > 0 ||
                   (H5Pget_layout(list) == H5D_VIRTUAL && !sources_stay_below(path, list));
    ks_h5_close(&list);
    H5Eclear2(H5E_DEFAULT);
    return outside ? lies_elsewhere(path, name, err) : 0;
}

hid_t ks_h5_open_set(hid_t file, const char *path, const char *name, ks_error *err)
{
    hid_t list = H5Pcreate(H5P_DATASET_ACCESS), set = -1;
    bool outside = false;
    if (list < 0 || H5Pset_elink_cb(list, refuse_link, &outside) < 0 || (set = H5Dopen2(file, name, list)) < 0)
        ks_h5_fail(err, "%s: cannot open /%s", path, name);
    if (outside)
        lies_elsewhere(path, name, err);
    ks_h5_close(&list);
    if (set >= 0 && check_storage(set, path, name, err))
        ks_h5_close(&set);
    return set;
}

/* Deflate makes at most 1032 bytes of one (https://zlib.net/zlib_tech.html), and small files are mostly metadata. */
enum { MOST_EXPANSION = 1032, SMALL_FILE = 1 << 16 };

int ks_h5_check_claim(hid_t set, const char *path, const char *name, uint64_t values, ks_error *err)
{
    hsize_t size = 0;
    uint64_t bytes = UINT64_MAX;
    hid_t file = H5Iget_file_id(set), list = H5Dget_create_plist(set), type = H5Dget_type(set);
    bool is_virtual = list >= 0 && H5Pget_layout(list) == H5D_VIRTUAL;
    if (type < 0 || __builtin_mul_overflow(values, (uint64_t)H5Tget_size(type), &bytes))
        bytes = UINT64_MAX;
    bool fits = is_virtual || (file >= 0 && H5Fget_filesize(file, &size) >= 0 &&
                               bytes / MOST_EXPANSION <= size + SMALL_FILE);
    ks_h5_close(&type);
    ks_h5_close(&list);
    if (file >= 0)
        H5Fclose(file);
    return fits ? 0
                : ks_error_set(err, "%s: /%s claims %llu bytes, which a file of %llu bytes cannot hold", path, name,
                               (unsigned long long)bytes, (unsigned long long)size);
}

static hid_t text_type(void)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    if (type >= 0) {
        H5Tset_size(type, H5T_VARIABLE);
        H5Tset_cset(type, H5T_CSET_UTF8);
    }
    return type;
}

/* Writes an attribute of the space's shape; type is that of the file and of data. */
static int put(hid_t object, const char *path, const char *name, hid_t type, hid_t space,
               const void *data, ks_error *err)
{
    hid_t attribute = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    int status = attribute < 0 || H5Awrite(attribute, type, data) < 0
                     ? ks_h5_fail(err, "%s: cannot write attribute %s", path, name)
                     : 0;
    ks_h5_close(&attribute);
    return status;
}

static int put_scalar(hid_t object, const char *path, const char *name, hid_t type,
                      const void *data, ks_error *err)
{
    hid_t space = H5Screate(H5S_SCALAR);
    int status = put(object, path, name, type, space, data, err);
    ks_h5_close(&space);
    return status;
}

int ks_h5_put_text(hid_t object, const char *path, const char *name, const char *text,
                   ks_error *err)
{
    const char *value = text ? text : "";
    hid_t type = text_type();
    int status = put_scalar(object, path, name, type, &value, err);
    ks_h5_close(&type);
    return status;
}

int ks_h5_put_texts(hid_t object, const char *path, const char *name, const char *const *text,
                    int count, ks_error *err)
{
    hsize_t size = (hsize_t)count;
    hid_t type = text_type(), space = H5Screate_simple(1, &size, NULL);
    int status = put(object, path, name, type, space, text, err);
    ks_h5_close(&space);
    ks_h5_close(&type);
    return status;
}

int ks_h5_put_u64(hid_t object, const char *path, const char *name, uint64_t value, ks_error *err)
{
    return put_scalar(object, path, name, H5T_STD_U64LE, &value, err);
}

int ks_h5_put_real(hid_t object, const char *path, const char *name, double value, ks_error *err)
{
    return put_scalar(object, path, name, H5T_IEEE_F64LE, &value, err);
}

int ks_h5_get_u64(hid_t object, const char *path, const char *name, uint64_t *value, ks_error *err)
{
    hid_t attribute = -1, space = -1;
    int status = -1;
    if (KS_H5(attribute = H5Aopen(object, name, H5P_DEFAULT), err, "%s: cannot open attribute %s",
              path, name) ||
        KS_H5(space = H5Aget_space(attribute), err, "%s: cannot read attribute %s", path, name))
        goto cleanup;
    if (H5Sget_simple_extent_npoints(space) != 1) {
        ks_error_set(err, "%s: attribute %s is not one number", path, name);
        goto cleanup;
    }
    status = KS_H5(H5Aread(attribute, H5T_NATIVE_UINT64, value), err,
                   "%s: cannot read attribute %s", path, name);
cleanup:
    ks_h5_close(&space);
    ks_h5_close(&attribute);
    return status;
}

int ks_h5_put_strings(hid_t file, const char *path, const char *name, char *const *text, int count,
                      ks_error *err)
{
    hsize_t size = (hsize_t)count;
    hid_t type = text_type(), space = H5Screate_simple(1, &size, NULL), set = -1;
    int status = KS_H5(
        set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), err,
        "%s: cannot make /%s", path, name);
    if (!status && count)
        status = KS_H5(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, text), err,
                       "%s: cannot write /%s", path, name);
    ks_h5_close(&set);
    ks_h5_close(&space);
    ks_h5_close(&type);
    return status;
}

int ks_h5_get_bytes(hid_t set, const char *path, char **bytes, size_t *size, ks_error *err)
{
    hid_t space = H5Dget_space(set);
    hssize_t n = H5Sget_simple_extent_npoints(space);
    ks_h5_close(&space);
    if (n < 1 || n > LARGEST_TEXT)
        return ks_error_set(err, "%s: a list of bytes has an impossible length", path);
    if (ks_h5_check_claim(set, path, "info", (uint64_t)n, err))
        return -1;
    *size = (size_t)n;
    *bytes = malloc(*size);
    if (!*bytes)
        return ks_error_set(err, "%s: no memory for %zu bytes", path, *size);
    if (!KS_H5(H5Dread(set, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, *bytes), err,
               "%s: cannot read", path))
        return 0;
    free(*bytes);
    *bytes = NULL;
    return -1;
}

enum { LARGEST_RANK = 8 };

/* Whether each item of these sizes, whose first axis counts the items, has the bytes that are expected. */
static bool items_fit(const hsize_t *size, int rank, hid_t type, size_t expected)
{
    uint64_t bytes = H5Tget_size(type);
    bool overflow = false;
    for (int i = 1; i < rank; i++)
        overflow |= __builtin_mul_overflow(bytes, (uint64_t)size[i], &bytes);
    return !overflow && bytes == expected;
}

/* Selects the items in a new copy of the set's space (*file_space) and makes a space of their shape
 * in memory. -1 also when they have other sizes than `item` bytes of the type in memory. */
static int select_items(hid_t set, hid_t type, uint64_t first, uint64_t count, size_t item, hid_t *file_space,
                        hid_t *memory_space)
{
    hsize_t start[LARGEST_RANK] = {first}, size[LARGEST_RANK] = {0};
    *file_space = H5Dget_space(set);
    int rank = H5Sget_simple_extent_ndims(*file_space);
    if (rank < 1 || rank > LARGEST_RANK || H5Sget_simple_extent_dims(*file_space, size, NULL) < 0)
        return -1;
    if (first > size[0] || count > size[0] - first || (item && !items_fit(size, rank, type, item)))
        return -1;
    size[0] = count;
    *memory_space = H5Screate_simple(rank, size, NULL);
    if (*memory_space < 0)
        return -1;
    return H5Sselect_hyperslab(*file_space, H5S_SELECT_SET, start, NULL, size, NULL) < 0 ? -1 : 0;
}

int ks_h5_read_items(hid_t set, const char *path, hid_t type, uint64_t first, uint64_t count,
                     void *out, size_t item, ks_error *err)
{
    hid_t there = -1, here = -1;
    int status = 0;
    if (select_items(set, type, first, count, item, &there, &here) ||
        H5Dread(set, type, here, there, H5P_DEFAULT, out) < 0)
        status = ks_h5_fail(err, "%s: cannot read rows %llu to %llu", path,
                            (unsigned long long)first, (unsigned long long)(first + count - 1));
    ks_h5_close(&there);
    ks_h5_close(&here);
    return status;
}

int ks_h5_write_items(hid_t set, const char *path, hid_t type, uint64_t first, uint64_t count,
                      const void *data, ks_error *err)
{
    hid_t there = -1, here = -1;
    int status = 0;
    if (select_items(set, type, first, count, 0, &there, &here) ||
        H5Dwrite(set, type, here, there, H5P_DEFAULT, data) < 0)
        status = ks_h5_fail(err, "%s: cannot write", path);
    ks_h5_close(&there);
    ks_h5_close(&here);
    return status;
}
