/* IEEE 754 half precision. */
#ifndef KS_STORE_FLOAT16_H
#define KS_STORE_FLOAT16_H

#include <stddef.h>
#include <stdint.h>

/* Rounds to the nearest, ties to even; overflow gives infinity, NaN stays NaN. */
uint16_t ks_float16(float value);
float ks_float32(uint16_t half);
void ks_float16_from(const float *in, uint16_t *out, size_t count);
void ks_float16_to(const uint16_t *in, float *out, size_t count);

#endif
