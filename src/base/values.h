/* Numbers that came from a file, held against what they may be. */
#ifndef KS_BASE_VALUES_H
#define KS_BASE_VALUES_H

#include <stddef.h>

#include "base/error.h"

/* Fails on the first of n values that is not a number from low to high: "value 17 of 64 (counted from 0) is nan; give <wanted>". */
int ks_values_check(const float *values, size_t n, float low, float high, const char *wanted, ks_error *err);

/* The same where every finite number will do. */
int ks_values_finite(const float *values, size_t n, ks_error *err);

#endif
