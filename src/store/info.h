/* What every file of an output says about its run.
 *
 * ksweep itself reads it from /info alone: bytes, name and value in turn, each ended by NUL, under
 * a check. HDF5's strings of variable length lie in heaps without a checksum, and one damaged byte
 * there can crash the library. */
#ifndef KS_STORE_INFO_H
#define KS_STORE_INFO_H

#include <hdf5.h>
#include <stddef.h>

#include "store/store.h"

/* Refuses an info that no file could hold (sizes, missing texts). */
int ks_info_check(const ks_store_info *info, ks_error *err);

size_t ks_info_latent_bytes(const ks_store_info *info); /* of one row, as stored */
size_t ks_info_image_bytes(const ks_store_info *info);  /* of one picture, were there any */

/* /info of a new file. created: when the file was made, Unix seconds, 0: now. */
int ks_info_write(hid_t file, const char *path, const ks_store_info *info, double created,
                  ks_error *err);

/* Bytes of /info, */
double ks_info_bytes(const ks_store_info *info);
/* and about those of what ks_info_publish writes. */
double ks_info_published_bytes(const ks_store_info *info);

/* What users of a collected file read: attributes of the root group, /positive, /negative and
 * /latent_image. */
int ks_info_publish(hid_t file, const char *path, const ks_store_info *info, ks_error *err);

/* The info of an open file; NULL on error. *created may be NULL. Free with ks_store_info_free. */
ks_store_info *ks_info_read(hid_t file, const char *path, double *created, ks_error *err);

/* Equal for the same job text, model and files of axes: then an index means the same sample. */
ks_hash128 ks_info_sweep(const ks_store_info *info);

/* Unix seconds as ISO 8601 in UTC; "" for 0. */
void ks_info_time(double seconds, char out[32]);

#endif
