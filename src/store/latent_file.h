/* Input latents: ComfyUI's .latent files (safetensors with "latent_tensor"; without
 * "latent_format_version_0" the values are multiplied by 1/0.18215, as ComfyUI's LoadLatent does)
 * and data sets of HDF5 files. */
#ifndef KS_STORE_LATENT_FILE_H
#define KS_STORE_LATENT_FILE_H

#include <stdint.h>

#include "base/error.h"

/* path: told apart by what it holds. dataset: NULL takes "latent_tensor", in HDF5 "latents". index:
 * item of the data set's first axis, or -1 for all as a batch. *values is new memory [batch, c, h,
 * w] (free() it), NULL on error. */
int ks_latent_read(const char *path, const char *dataset, int64_t index, float **values,
                   int shape[4], ks_error *err);

#endif
