// The vector interface of the kernel bodies (*_body.h) with one lane, in portable C++: the scalar implementations.
// The headers simd_avx2.h and simd_avx512.h offer the same names; each lives in the namespace of its instruction set and
// holds static functions only, so that no two objects share a linker copy.
#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/exp.cuh"
#include "fastdecode/philox.cuh"
#include "ops/cpu/convert.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

typedef float F;
static const int kLanes = 1;

static inline F load(const float* p) { return *p; }
static inline F load_bf16(const uint16_t* p) { return float_of_bf16(*p); }
static inline F load_f16(const uint16_t* p) { return float_of_f16(*p); }
static inline F load_doubles(const double* p) { return float(*p); }
static inline void store(float* p, F a) { *p = a; }
static inline F set1(float a) { return a; }
static inline F add(F a, F b) { return a + b; }
static inline F sub(F a, F b) { return a - b; }
static inline F mul(F a, F b) { return a * b; }
static inline F div(F a, F b) { return a / b; }
static inline F fma(F a, F b, F c) { return a * b + c; }
static inline F max(F a, F b) { return a > b ? a : b; }  // b when either is NaN
static inline uint32_t gt(F a, F b) { return a > b; }    // comparisons yield one bit per lane
static inline uint32_t ge(F a, F b) { return a >= b; }
static inline uint32_t unordered(F a, F b) { return a != a || b != b; }
static inline F select(uint32_t bits, F a, F b) { return bits ? a : b; }  // a where the bit is set
static inline float reduce_max(F a) { return a; }
static inline double reduce_add(F a) { return a; }
static inline F exp(F a) { return a < kExpUnderflow ? 0.0f : ::expf(a); }
static inline F exp2(F a) { return a < -126 ? 0.0f : ::exp2f(a); }

// Plane 0 of a stream for the 4 * kLanes indices from 4 * counter on; a bit for each word that is at most `limit`.
static inline uint64_t plane0_at_most(const Stream& s, uint32_t counter, uint32_t limit, uint32_t* words) {
  const Words w = philox4x32(Words{{counter, 0, s.counter2, s.counter3}}, s.key0, s.key1);
  uint64_t bits = 0;
  for (int i = 0; i < 4; ++i) {
    words[i] = w.w[i];
    bits |= uint64_t(w.w[i] <= limit) << i;
  }
  return bits;
}

// Appends the lanes of `a` whose bit is set, and their ids counted from `first`; returns how many.
static inline int64_t compress(float* values, int32_t* ids, uint32_t bits, F a, int32_t first) {
  *values = a;
  *ids = first;
  return bits;
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
