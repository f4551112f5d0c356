#include "store/float16.h"

#include <string.h>

uint16_t ks_float16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) /* NaN: the payload's top bits, kept from becoming an infinity */
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x1ffu));
    if (magnitude >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x33000000u) /* below half of the smallest subnormal, 2^-25 */
        return (uint16_t)sign;
    uint32_t exponent = magnitude >> 23, shift = 13, rebias = (127 - 15) << 10, whole = magnitude;
    if (exponent < 127 - 14) { /* subnormal: units of 2^-24 */
        whole = (magnitude & 0x7fffffu) | 0x800000u;
        shift = 126 - exponent;
        rebias = 0;
    }
    uint32_t half = whole >> shift, rest = whole & ((1u << shift) - 1), tie = 1u << (shift - 1);
    half += rest > tie || (rest == tie && (half & 1));
    return (uint16_t)(sign | (half - rebias));
}

float ks_float32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 0x1fu,
             mantissa = half & 0x3ffu;
    uint32_t bits;
    if (exponent == 0) {
        float small = (float)mantissa * 0x1p-24f;
        memcpy(&bits, &small, sizeof bits);
    } else if (exponent == 31) {
        bits = 0x7f800000u | mantissa << 13;
    } else {
        bits = (exponent + 127 - 15) << 23 | mantissa << 13;
    }
    bits |= sign;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

void ks_float16_from(const float *in, uint16_t *out, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = ks_float16(in[i]);
}

void ks_float16_to(const uint16_t *in, float *out, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = ks_float32(in[i]);
}
