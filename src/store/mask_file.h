/* Masks: pictures of one channel, from tensors [H, W], [N, H, W] or [N, 1, H, W] of safetensors and
 * HDF5 files, or from a PNG's channel. */
#ifndef KS_STORE_MASK_FILE_H
#define KS_STORE_MASK_FILE_H

#include "base/error.h"

/* path: told apart by what it holds. name: of the tensor or data set; of a PNG "red" (also NULL: a
 * grey picture's value), "green" or "blue" with white 1 and black 0, or "alpha", which is 1 where
 * the picture is transparent, as in ComfyUI. *values is new memory [shape] (free() it), NULL on
 * error; shape: N, H, W. Values that are not finite are refused. */
int ks_mask_read(const char *path, const char *name, float **values, int shape[3], ks_error *err);

#endif
