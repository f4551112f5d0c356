/* The steps of ks_model_detect. */
#ifndef KS_MODEL_CONFIG_PARTS_H
#define KS_MODEL_CONFIG_PARTS_H

#include "model/config.h"

/* config_shapes.c: what the tensors' shapes tell. Each fills its config, or leaves present false;
 * they fail where the file is another kind of model. Sizes are read from a few tensors only:
 * ks_check_tensors then looks at every one. */
int ks_unet_shapes(const ks_safetensors *st, ks_unet_config *unet, ks_error *err);
int ks_text_shapes(const ks_safetensors *st, ks_text_config *text, ks_error *err);
int ks_vae_shapes(const ks_safetensors *st, ks_vae_config *vae, ks_error *err);

/* config_json.c: what the JSON beside the file adds. Values that shapes tell too must agree with
 * them. Without such a file nothing changes. */
int ks_read_model_json(const ks_safetensors *st, ks_model_config *config, ks_error *err);

/* config_check.c: every tensor that config implies is there, with exactly its shape and a type of
 * real numbers, and the UNet has no others. Counts parameters and bytes, and finds dtype. */
int ks_check_tensors(const ks_safetensors *st, ks_model_config *config, ks_error *err);

#endif
