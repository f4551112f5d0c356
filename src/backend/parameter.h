/* What every backend asks of the parameters that it is given, before it brings them into its own form. */
#ifndef KS_BACKEND_PARAMETER_H
#define KS_BACKEND_PARAMETER_H

#include "backend/ops.h"

/* Bytes of an element of a type that parameters may have; 0 for integers. */
int ks_parameter_bytes(ks_dtype type);

/* Fails for integers. */
int ks_parameter_check_type(const ks_view *v, ks_error *err);

/* [length] of such a type. what: "bias", "norm's scale", for the message. */
int ks_parameter_check_vector(const ks_view *v, int64_t length, const char *what, ks_error *err);

/* The outputs of parts that are joined, each [out, in] or [out, in, kh, kw] with the same in, kh and kw, and bias NULL or
 * [out] for each; -1 and err where they cannot be joined. */
int64_t ks_parameter_outputs(int parts, const ks_view *view, const ks_view *bias, ks_error *err);

#endif
