/* safetensors files made up by tests: any header, and data that is all zeros (a sparse file, so a
 * checkpoint of full size costs no disk). Failures end the running test. */
#ifndef TESTS_SUPPORT_CHECKPOINT_H
#define TESTS_SUPPORT_CHECKPOINT_H

#include <stdint.h>

typedef struct checkpoint checkpoint;

checkpoint *checkpoint_new(void);
void checkpoint_free(checkpoint *c);

/* dtype: "F16", "F32", "I64", ... */
void checkpoint_add(checkpoint *c, const char *dtype, const char *name, int rank,
                    const int64_t *shape);
void checkpoint_remove(checkpoint *c, const char *name);
void checkpoint_reshape(checkpoint *c, const char *name, int rank, const int64_t *shape);
void checkpoint_retype(checkpoint *c, const char *name, const char *dtype);
void checkpoint_shape(checkpoint *c, const char *name, int *rank, int64_t shape[8]);
int checkpoint_count(const checkpoint *c);
const char *checkpoint_name(const checkpoint *c, int index);

/* Writes the file. Tensors lie in the order in which they were added. */
void checkpoint_write(const checkpoint *c, const char *path);

/* A UNet of the SD family in LDM's layout; one kind of level everywhere. */
typedef struct checkpoint_unet {
    const char *prefix;
    int in, out, width, levels, mult[8], blocks;
    int depth[8]; /* transformer blocks at each level */
    int depth_middle;
    int linear; /* projections: 1 linear, 0 convolutions */
    int context, vector;
} checkpoint_unet;
void checkpoint_add_unet(checkpoint *c, const char *dtype, const checkpoint_unet *u);

/* CLIP's text model at prefix. */
void checkpoint_add_clip(checkpoint *c, const char *dtype, const char *prefix, int vocab, int width,
                         int layers);

/* The decoder of SD's autoencoder at "first_stage_model.": width times 1, 2, 4, 4. */
void checkpoint_add_vae(checkpoint *c, const char *dtype, int width);

/* Writes bytes to a file. */
void write_bytes(const char *path, const void *bytes, uint64_t size);

#endif
