/* safetensors files, mapped read-only. Every offset, shape and type is checked against the file's
 * size before anything is handed out, so a truncated or lying header is an error and never a wild
 * read. Format: https://github.com/huggingface/safetensors (8-byte length, JSON header, data). */
#ifndef KS_MODEL_SAFETENSORS_H
#define KS_MODEL_SAFETENSORS_H

#include "backend/ops.h"
#include "base/error.h"
#include "base/file.h"

typedef struct ks_safetensors ks_safetensors;

/* Fails on a header that is cut, longer than 100 MB (the format's limit) or not what the format
 * says; on shapes that do not fill their bytes; and on data with holes or overlaps. */
ks_safetensors *ks_safetensors_open(const char *path, ks_error *err);
/* The same of bytes that are mapped already; path is for messages. Takes the map over, also when it fails. */
ks_safetensors *ks_safetensors_of_map(const char *path, ks_map map, ks_error *err);
void ks_safetensors_close(ks_safetensors *st);

/* What bytes that are no safetensors file seem to be, as the end of a message (": it is a JPEG picture"); "" when unknown. */
const char *ks_safetensors_stranger(const void *bytes, size_t size);

const char *ks_safetensors_path(const ks_safetensors *st);
int ks_safetensors_count(const ks_safetensors *st);
const char *ks_safetensors_name(const ks_safetensors *st, int index); /* in strcmp order */
int ks_safetensors_index(const ks_safetensors *st, const char *name); /* -1: absent */

/* The tensor's view into the map (lives as long as the file); 1 found, 0 absent. F32, F16, BF16,
 * F64, I32, I64, U8 carry their type; a tensor of another type is found only by ks_safetensors_get,
 * which says so. */
int ks_safetensors_find(const ks_safetensors *st, const char *name, ks_view *view);

/* The same; absence or a type that cannot be read is an error that names file, tensor and the
 * nearest name. */
int ks_safetensors_get(const ks_safetensors *st, const char *name, ks_view *view, ks_error *err);

/* The whole file, for hashing. */
const void *ks_safetensors_bytes(const ks_safetensors *st, size_t *size);

int64_t ks_view_elements(const ks_view *view);
size_t ks_dtype_size(ks_dtype type);
const char *ks_dtype_name(ks_dtype type); /* as the format writes it: "F32", "BF16" */

/* The view's values as float32, elements in all (F32, F16, BF16, F64 only). */
int ks_view_floats(const ks_view *view, float *out, ks_error *err);

#endif
