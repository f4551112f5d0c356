/* Reading reference data (HDF5) in tests: every failure fails the running test with the path in
 * its message. */
#ifndef TESTS_SUPPORT_GOLDEN_H
#define TESTS_SUPPORT_GOLDEN_H

#include <stdint.h>

typedef struct golden_array {
    int rank;
    int64_t shape[8];
    int64_t count;
    float *value;
} golden_array;

/* Opens a file of the folder, or an absolute path. */
int64_t golden_open_in(const char *folder, const char *name);

#ifdef TEST_DATA
/* name: a file of tests/golden ("noise.h5"), or an absolute path. */
static inline int64_t golden_open(const char *name)
{
    return golden_open_in(TEST_DATA, name);
}
#endif

void golden_close(int64_t file);
golden_array golden_read(int64_t file, const char *path); /* as float32; golden_free it */
double *golden_doubles(int64_t file, const char *path, int64_t *count); /* free() it */
int64_t *golden_integers(int64_t file, const char *path, int64_t *count);
void golden_free(golden_array *a);
int golden_exists(int64_t file, const char *path);

/* Attributes of the object at path. */
int golden_has(int64_t file, const char *path, const char *attribute);
double golden_real(int64_t file, const char *path, const char *attribute);
uint64_t golden_integer(int64_t file, const char *path, const char *attribute);
char *golden_text(int64_t file, const char *path, const char *attribute); /* free() it */
/* An attribute that is a list of integers; free() it. */
int64_t *golden_list(int64_t file, const char *path, const char *attribute, int64_t *count);

/* Names of a group's members, in name order; free each and the list. */
char **golden_members(int64_t file, const char *path, int *count);

/* Calls see(self, path) for every group below path, in name order, that holds the data set or
 * attribute `marker`; path is absolute within the file. */
void golden_walk(int64_t file, const char *path, const char *marker,
                 void (*see)(void *self, const char *path), void *self);

/* ||a - b|| / ||b||, in double. */
double relative_l2(const float *a, const float *b, int64_t n);
double largest_difference(const float *a, const float *b, int64_t n);

#endif
