/* HDF5 with this project's errors: one start, one checking macro, attributes, strings. */
#ifndef KS_STORE_H5_H
#define KS_STORE_H5_H

#include <hdf5.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "rows and latents are written as they lie in memory");

/* Makes HDF5 silent and, unless the environment says otherwise, free of file locks (many cluster
 * file systems have none). Called before every HDF5 file is opened or made. */
void ks_h5_start(void);

/* Whether it is an HDF5 file that can be read. */
bool ks_h5_is(const char *path);

/* "<formatted>: <why>" into err and returns -1. Why is the operating system's reason where HDF5's
 * error stack holds one, else the innermost message of the stack. */
int ks_h5_fail(ks_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* 0 when the HDF5 call (or assignment of one) gave no negative value, else -1 with err filled. */
#define KS_H5(call, err, ...) ((call) < 0 ? ks_h5_fail(err, __VA_ARGS__) : 0)

/* Closes any object but a file and sets *id to -1; negative ids are skipped. */
void ks_h5_close(hid_t *id);

/* Access list for our files: no locks. Negative only without memory. */
hid_t ks_h5_file_access(void);

/* Opens to read a file that is complete, being written (SWMR), or was left by a killed writer.
 * *plain (may be NULL) tells whether readers that know nothing of SWMR can open it too. */
hid_t ks_h5_open(const char *path, bool *plain, ks_error *err);

/* Has every byte of the file on the disk before it returns. The file must be flushed or closed. */
int ks_h5_sync(const char *path, ks_error *err);

/* The same for the name of a file or folder: its folder is brought to disk, where folders can be. */
int ks_h5_sync_folder(const char *path, ks_error *err);

/* IEEE half precision, little-endian, or float32, as files hold them. New types. */
hid_t ks_h5_float_type(bool float16);
bool ks_h5_is_float16(hid_t type);

/* Attributes of an object. path is for messages. Texts are of variable length, UTF-8. */
int ks_h5_put_text(hid_t object, const char *path, const char *name, const char *text,
                   ks_error *err);
int ks_h5_put_texts(hid_t object, const char *path, const char *name, const char *const *text,
                    int count, ks_error *err);
int ks_h5_put_u64(hid_t object, const char *path, const char *name, uint64_t value, ks_error *err);
int ks_h5_put_real(hid_t object, const char *path, const char *name, double value, ks_error *err);
int ks_h5_get_u64(hid_t object, const char *path, const char *name, uint64_t *value, ks_error *err);

/* A data set of a file that may come from a stranger. One that would read other files than those beside and below this one
 * (external links, external storage, virtual sources by an absolute path or by "..") is refused. */
hid_t ks_h5_open_set(hid_t file, const char *path, const char *name, ks_error *err);

/* Refuses to read so many values of a data set, where its file could not hold them however well they were compressed: asked
 * before memory is taken for them. Virtual data sets, whose bytes lie elsewhere, are believed. */
int ks_h5_check_claim(hid_t set, const char *path, const char *name, uint64_t values, ks_error *err);

/* One-dimensional data sets: UTF-8 strings, and bytes (*bytes is new memory, free() it). */
int ks_h5_put_strings(hid_t file, const char *path, const char *name, char *const *text, int count,
                      ks_error *err);
int ks_h5_get_bytes(hid_t set, const char *path, char **bytes, size_t *size, ks_error *err);

/* Reads or writes items [first, first + count) of a data set's first axis, the others whole. item: bytes that one has in
 * out; a data set with items of another size is refused. */
int ks_h5_read_items(hid_t set, const char *path, hid_t type, uint64_t first, uint64_t count,
                     void *out, size_t item, ks_error *err);
int ks_h5_write_items(hid_t set, const char *path, hid_t type, uint64_t first, uint64_t count,
                      const void *data, ks_error *err);

#endif
