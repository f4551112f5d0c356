/* Checkpoints of random numbers for timing networks of real shapes. Matrices are normal with
 * variance 1 / inputs, less where a residual branch ends, norms are near 1 and biases near 0, so
 * that every activation stays near unit variance at any depth: half precision never overflows, and
 * the data's bits vary as those of a trained network do. A GPU draws less power on zeros and NaN
 * and is faster on them, which would be no measurement. */
#ifndef BENCH_RANDOM_MODEL_H
#define BENCH_RANDOM_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/model.h"
#include "support/checkpoint.h"

typedef struct random_model {
    const char *name;
    checkpoint_unet unet;
    int side; /* of the latent */
} random_model;

enum { RANDOM_MODELS = 2 };
extern const random_model random_models[RANDOM_MODELS]; /* SDXL, SD 1.5 */

/* The model's float16 file in the folder: found there, or made (SDXL: 5.1 GB). Its path, to be
 * freed; NULL when it cannot be written. */
char *random_model_file(const random_model *m, const char *folder, ks_error *err);

/* So many conditionings of 77 tokens, and y where the model has it, of random numbers; to be freed each. -1 and err. */
int random_conditionings(const random_model *m, ks_model *model, ks_cond **cond, int count, ks_error *err);

/* So many standard normal numbers on the device, always the same; ops->release them. NULL and err without memory. */
float *random_latents(ks_ops *ops, size_t n, ks_error *err);

/* Standard normal numbers. */
void random_normals(float *to, size_t n, uint64_t seed);

#endif
