#include "backend/parameter.h"

enum { KERNEL = 1024 /* the largest kernel's side */ };

int ks_parameter_bytes(ks_dtype type)
{
    static const int bytes[] = {
        [KS_F32] = 4, [KS_F16] = 2, [KS_BF16] = 2, [KS_F64] = 8,
        [KS_I32] = 0, [KS_I64] = 0, [KS_U8] = 0,
    };
    return bytes[type];
}

int ks_parameter_check_type(const ks_view *v, ks_error *err)
{
    if (ks_parameter_bytes(v->dtype))
        return 0;
    return ks_error_set(err, "a parameter of integer type: F32, F16, BF16 or F64 is needed");
}

/* [out, in] or [out, in, kh, kw], the same in, kh and kw as the first part. */
static int check_part(const ks_view *v, const ks_view *first, ks_error *err)
{
    if (v->rank != 2 && v->rank != 4)
        return ks_error_set(err, "a linear or convolution weight of rank %d: 2 or 4 is needed",
                            v->rank);
    for (int d = 0; d < v->rank; d++)
        if (v->shape[d] < 1 || v->shape[d] > (d < 2 ? INT32_MAX : KERNEL))
            return ks_error_set(err, "a weight of size %lld along axis %d", (long long)v->shape[d],
                                d);
    for (int d = 1; d < v->rank; d++)
        if (v->rank != first->rank || v->shape[d] != first->shape[d])
            return ks_error_set(err, "weights to be joined differ in more than their outputs");
    return ks_parameter_check_type(v, err);
}

int ks_parameter_check_vector(const ks_view *v, int64_t length, const char *what, ks_error *err)
{
    if (v->rank != 1 || v->shape[0] != length)
        return ks_error_set(err, "a %s of rank %d, first size %lld: [%lld] is needed", what,
                            v->rank, v->rank > 0 ? (long long)v->shape[0] : 0, (long long)length);
    return ks_parameter_check_type(v, err);
}

int64_t ks_parameter_outputs(int parts, const ks_view *view, const ks_view *bias, ks_error *err)
{
    int64_t out = 0;
    for (int i = 0; i < parts; out += view[i++].shape[0]) {
        if (check_part(&view[i], view, err) < 0)
            return -1;
        if (bias && ks_parameter_check_vector(&bias[i], view[i].shape[0], "bias", err) < 0)
            return -1;
    }
    if (out > 0 && out <= INT32_MAX)
        return out;
    return ks_error_set(err, "a weight of %lld outputs", (long long)out);
}
