// Elements of the supported types as floats, one by one or in groups that one load instruction brings.
#pragma once

#include <cstdint>

#include "fastdecode/dtype.h"
#include "fastdecode/philox.cuh"

namespace fastdecode {

FD_HD static inline float float_of_bits(uint32_t bits) {
  union {
    uint32_t bits;
    float value;
  } x;
  x.bits = bits;
  return x.value;
}

FD_HD static inline uint32_t bits_of(float value) {
  union {
    float value;
    uint32_t bits;
  } x;
  x.value = value;
  return x.bits;
}

// bfloat16 is the upper half of a float. For float16 the exponent is moved by an exact product, which also covers subnormals.
FD_HD static inline float float_of_half(uint32_t h, int dtype) {
  if (dtype == kBFloat16) return float_of_bits(h << 16);
  const float magnitude = float_of_bits((h & 0x7FFF) << 13) * 0x1p112f;
  const uint32_t bits = bits_of(magnitude) | (magnitude >= 65536.0f ? 0x7F800000u : 0);  // infinities and NaN
  return float_of_bits(bits | (h & 0x8000) << 16);
}

// Rounds to nearest even; NaN stays NaN.
FD_HD static inline uint16_t bfloat16_of(float f) {
  const uint32_t bits = bits_of(f);
  if (f != f) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

FD_HD static inline int element_bytes(int dtype) { return dtype == kFloat32 ? 4 : 2; }

FD_HD static inline float element_at(const void* data, int dtype, int64_t i) {
  if (dtype == kFloat32) return static_cast<const float*>(data)[i];
  return float_of_half(static_cast<const uint16_t*>(data)[i], dtype);
}

template <int kWords>
struct alignas(kWords >= 4 ? 16 : 4 * kWords) WordGroup {
  uint32_t words[kWords];
};

// Whether groups of kCount elements that start at multiples of kCount may be loaded at once. `offsets` holds, as bits, every
// distance in elements that may be added to the pointer.
template <int kCount>
FD_HD bool groups_aligned(const void* data, int dtype, int64_t offsets) {
  const int bytes = kCount * element_bytes(dtype) < 16 ? kCount * element_bytes(dtype) : 16;
  return ((uint64_t(data) | uint64_t(offsets) * uint64_t(element_bytes(dtype))) & uint64_t(bytes - 1)) == 0;
}

// x[j] = element i + j for j < kCount.
template <int kCount>
FD_HD void load_group(const void* data, int dtype, int64_t i, bool aligned, float* x) {
  if (!aligned) {
    for (int j = 0; j < kCount; ++j) x[j] = element_at(data, dtype, i + j);
  } else if (dtype == kFloat32) {
    const WordGroup<kCount> group = *reinterpret_cast<const WordGroup<kCount>*>(static_cast<const float*>(data) + i);
    for (int j = 0; j < kCount; ++j) x[j] = float_of_bits(group.words[j]);
  } else {
    const WordGroup<kCount / 2> group = *reinterpret_cast<const WordGroup<kCount / 2>*>(static_cast<const uint16_t*>(data) + i);
    for (int j = 0; j < kCount; ++j) x[j] = float_of_half(group.words[j / 2] >> (j % 2 * 16) & 0xFFFF, dtype);
  }
}

}  // namespace fastdecode
