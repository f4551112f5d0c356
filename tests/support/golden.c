#include "golden.h"

#include <hdf5.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { PATH_LENGTH = 1024 };

/* The message of a failure; the test ends here. */
#define REQUIRE(condition, ...)                                                                    \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail_msg(__VA_ARGS__);                                                                 \
    } while (0)

static void *allocate(size_t bytes)
{
    void *p = calloc(bytes ? bytes : 1, 1);
    REQUIRE(p, "out of memory for %zu bytes", bytes);
    return p;
}

int64_t golden_open_in(const char *folder, const char *name)
{
    char path[PATH_LENGTH];
    if (name[0] == '/')
        snprintf(path, sizeof path, "%s", name);
    else
        snprintf(path, sizeof path, "%s/%s", folder, name);
    hid_t file = H5I_INVALID_HID;
    H5E_BEGIN_TRY { file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT); }
    H5E_END_TRY;
    REQUIRE(file >= 0, "%s: cannot be opened as an HDF5 file", path);
    return file;
}

void golden_close(int64_t file)
{
    REQUIRE(H5Fclose(file) >= 0, "HDF5 file cannot be closed");
}

int golden_exists(int64_t file, const char *path)
{
    htri_t found = -1;
    H5E_BEGIN_TRY { found = H5Oexists_by_name(file, path, H5P_DEFAULT); }
    H5E_END_TRY;
    return found > 0;
}

/* The shape of a data set goes to shape (8 at most); gives the number of elements. */
static int64_t shape_of(hid_t set, const char *path, int *rank, int64_t *shape)
{
    hid_t space = H5Dget_space(set);
    int dimensions = H5Sget_simple_extent_ndims(space);
    hsize_t size[8] = {0};
    REQUIRE(dimensions >= 0 && dimensions <= 8, "%s: %d dimensions", path, dimensions);
    H5Sget_simple_extent_dims(space, size, NULL);
    int64_t count = 1;
    for (int i = 0; i < dimensions; i++) {
        shape[i] = (int64_t)size[i];
        count *= shape[i];
    }
    *rank = dimensions;
    H5Sclose(space);
    return count;
}

/* The whole data set as `type`, in new memory. */
static void *read_all(int64_t file, const char *path, hid_t type, size_t width, int *rank,
                      int64_t *shape, int64_t *count)
{
    hid_t set = H5I_INVALID_HID;
    H5E_BEGIN_TRY { set = H5Dopen2(file, path, H5P_DEFAULT); }
    H5E_END_TRY;
    REQUIRE(set >= 0, "%s: no such data set", path);
    *count = shape_of(set, path, rank, shape);
    void *value = allocate((size_t)*count * width);
    REQUIRE(H5Dread(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, value) >= 0, "%s: cannot be read",
            path);
    H5Dclose(set);
    return value;
}

golden_array golden_read(int64_t file, const char *path)
{
    golden_array a = {0};
    a.value = read_all(file, path, H5T_NATIVE_FLOAT, sizeof *a.value, &a.rank, a.shape, &a.count);
    return a;
}

double *golden_doubles(int64_t file, const char *path, int64_t *count)
{
    int rank;
    int64_t shape[8];
    return read_all(file, path, H5T_NATIVE_DOUBLE, sizeof(double), &rank, shape, count);
}

int64_t *golden_integers(int64_t file, const char *path, int64_t *count)
{
    int rank;
    int64_t shape[8];
    return read_all(file, path, H5T_NATIVE_INT64, sizeof(int64_t), &rank, shape, count);
}

void golden_free(golden_array *a)
{
    free(a->value);
    *a = (golden_array){0};
}

int golden_has(int64_t file, const char *path, const char *attribute)
{
    htri_t found = -1;
    H5E_BEGIN_TRY { found = H5Aexists_by_name(file, path, attribute, H5P_DEFAULT); }
    H5E_END_TRY;
    return found > 0;
}

static hid_t open_attribute(int64_t file, const char *path, const char *attribute)
{
    REQUIRE(golden_has(file, path, attribute), "%s: no attribute %s", path, attribute);
    hid_t a = H5Aopen_by_name(file, path, attribute, H5P_DEFAULT, H5P_DEFAULT);
    REQUIRE(a >= 0, "%s: attribute %s cannot be opened", path, attribute);
    return a;
}

/* Reads an attribute of one element; text and lists are refused. */
static void read_scalar(int64_t file, const char *path, const char *attribute, hid_t type,
                        void *out)
{
    hid_t a = open_attribute(file, path, attribute);
    hid_t space = H5Aget_space(a);
    REQUIRE(H5Sget_simple_extent_npoints(space) == 1, "%s: attribute %s is a list", path,
            attribute);
    REQUIRE(H5Aread(a, type, out) >= 0, "%s: attribute %s is no number", path, attribute);
    H5Sclose(space);
    H5Aclose(a);
}

double golden_real(int64_t file, const char *path, const char *attribute)
{
    double value = 0;
    read_scalar(file, path, attribute, H5T_NATIVE_DOUBLE, &value);
    return value;
}

/* Negative values come as their two's complement. HDF5 would clip them, so the sign picks the type
 * read. */
uint64_t golden_integer(int64_t file, const char *path, const char *attribute)
{
    hid_t a = open_attribute(file, path, attribute);
    hid_t type = H5Aget_type(a);
    int is_signed = H5Tget_class(type) == H5T_INTEGER && H5Tget_sign(type) == H5T_SGN_2;
    H5Tclose(type);
    H5Aclose(a);
    uint64_t value = 0;
    read_scalar(file, path, attribute, is_signed ? H5T_NATIVE_INT64 : H5T_NATIVE_UINT64, &value);
    return value;
}

int64_t *golden_list(int64_t file, const char *path, const char *attribute, int64_t *count)
{
    hid_t a = open_attribute(file, path, attribute);
    hid_t space = H5Aget_space(a);
    *count = H5Sget_simple_extent_npoints(space);
    int64_t *value = allocate((size_t)*count * sizeof *value);
    REQUIRE(H5Aread(a, H5T_NATIVE_INT64, value) >= 0, "%s: attribute %s is no list of integers",
            path, attribute);
    H5Sclose(space);
    H5Aclose(a);
    return value;
}

char *golden_text(int64_t file, const char *path, const char *attribute)
{
    hid_t a = open_attribute(file, path, attribute);
    hid_t type = H5Aget_type(a);
    REQUIRE(H5Tget_class(type) == H5T_STRING, "%s: attribute %s is no text", path, attribute);
    char *text;
    if (H5Tis_variable_str(type) > 0) {
        char *owned = NULL;
        REQUIRE(H5Aread(a, type, &owned) >= 0, "%s: attribute %s cannot be read", path, attribute);
        text = allocate(strlen(owned) + 1);
        strcpy(text, owned);
        H5free_memory(owned);
    } else {
        text = allocate(H5Tget_size(type) + 1);
        REQUIRE(H5Aread(a, type, text) >= 0, "%s: attribute %s cannot be read", path, attribute);
    }
    H5Tclose(type);
    H5Aclose(a);
    return text;
}

char **golden_members(int64_t file, const char *path, int *count)
{
    hid_t group = H5I_INVALID_HID;
    H5E_BEGIN_TRY { group = H5Gopen2(file, path, H5P_DEFAULT); }
    H5E_END_TRY;
    REQUIRE(group >= 0, "%s: no such group", path);
    H5G_info_t info;
    REQUIRE(H5Gget_info(group, &info) >= 0, "%s: cannot be listed", path);
    char **names = allocate((size_t)info.nlinks * sizeof *names);
    for (hsize_t i = 0; i < info.nlinks; i++) {
        ssize_t length = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, NULL, 0,
                                            H5P_DEFAULT);
        REQUIRE(length >= 0, "%s: cannot be listed", path);
        names[i] = allocate((size_t)length + 1);
        H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, names[i], (size_t)length + 1,
                           H5P_DEFAULT);
    }
    H5Gclose(group);
    *count = (int)info.nlinks;
    return names;
}

static bool is_group(int64_t file, const char *path)
{
    hid_t object = H5Oopen(file, path, H5P_DEFAULT);
    REQUIRE(object >= 0, "%s: cannot be opened", path);
    bool found = H5Iget_type(object) == H5I_GROUP;
    H5Oclose(object);
    return found;
}

void golden_walk(int64_t file, const char *path, const char *marker,
                 void (*see)(void *self, const char *path), void *self)
{
    int count;
    char **names = golden_members(file, path, &count);
    for (int i = 0; i < count; i++) {
        char child[PATH_LENGTH], inner[PATH_LENGTH];
        snprintf(child, sizeof child, "%s/%s", strcmp(path, "/") == 0 ? "" : path, names[i]);
        free(names[i]);
        if (!is_group(file, child))
            continue;
        int length = snprintf(inner, sizeof inner, "%s/%s", child, marker);
        REQUIRE(length > 0 && (size_t)length < sizeof inner, "%s: path too long", child);
        if (golden_has(file, child, marker) || golden_exists(file, inner))
            see(self, child);
        golden_walk(file, child, marker, see, self);
    }
    free(names);
}

double relative_l2(const float *a, const float *b, int64_t n)
{
    double difference = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        difference += d * d;
        size += (double)b[i] * (double)b[i];
    }
    return size > 0 ? sqrt(difference / size) : sqrt(difference);
}

/* Not-a-number on either side counts as infinitely far, so that no bound can miss it. */
double largest_difference(const float *a, const float *b, int64_t n)
{
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= largest))
            largest = isnan(d) ? INFINITY : d;
    }
    return largest;
}
