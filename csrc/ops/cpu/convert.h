// Element conversions shared by the vector headers; static, see simd_scalar.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "fastdecode/dtype.h"

namespace fastdecode {

static inline float float_from_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static inline uint32_t bits_of_float(float f) {
  uint32_t bits;
  memcpy(&bits, &f, sizeof bits);
  return bits;
}

static inline float float_of_bf16(uint16_t h) { return float_from_bits(uint32_t(h) << 16); }

static inline float float_of_f16(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 1023;
  if (exponent == 31) return float_from_bits(sign | 0x7F800000u | fraction << 13);
  if (exponent > 0) return float_from_bits(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = float(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

// Rounds to nearest even; NaN stays NaN.
static inline uint16_t bf16_of_float(float f) {
  const uint32_t bits = bits_of_float(f);
  if (f != f) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static inline int bytes_of(int dtype) { return dtype == kFloat32 ? 4 : 2; }

static inline float element(const void* data, int dtype, int64_t i) {
  if (dtype == kFloat32) return static_cast<const float*>(data)[i];
  const uint16_t h = static_cast<const uint16_t*>(data)[i];
  return dtype == kBFloat16 ? float_of_bf16(h) : float_of_f16(h);
}

}  // namespace fastdecode
