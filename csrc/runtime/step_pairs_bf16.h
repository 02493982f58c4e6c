// Products of bfloat16 pairs by vdpbf16ps.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

struct Pairs {
  __m512bh v;
};

static inline Pairs load_weights(const uint16_t* p) { return {(__m512bh)_mm512_loadu_si512(p)}; }
static inline Pairs broadcast(const uint16_t* p) {
  int pair;
  memcpy(&pair, p, sizeof pair);
  return {(__m512bh)_mm512_set1_epi32(pair)};
}
static inline F dot(F sum, const Pairs& a, const Pairs& b) { return _mm512_dpbf16_ps(sum, a.v, b.v); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
