#include "base/values.h"

#include <float.h>

int ks_values_check(const float *values, size_t n, float low, float high, const char *wanted, ks_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!(values[i] >= low && values[i] <= high))
            return ks_error_set(err, "value %zu of %zu (counted from 0) is %.9g; give %s", i, n, (double)values[i], wanted);
    return 0;
}

int ks_values_finite(const float *values, size_t n, ks_error *err)
{
    return ks_values_check(values, n, -FLT_MAX, FLT_MAX, "finite numbers", err);
}
