#define FD_SIMD_NAMESPACE avx512
#include "runtime/step_bytes_madd.h"
#include "runtime/step_elements_avx512.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

template <class T>
struct Shape;
template <>
struct Shape<float> {
  static const int rows = 28, sums = 2, wide = 0;
};
template <>
struct Shape<uint16_t> {
  static const int rows = 12, sums = 24, wide = 0;  // 24 vectors of sums, 4 halves of weights, 2 of inputs
};
template <>
struct Shape<int8_t> {
  static const int rows = 1, sums = 2, wide = 0;
};

struct Pair {
  F even, odd;
};

static inline Pair split(__m512i pairs) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)), _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xFFFF0000u))))};
}

static inline Pair load_weights(const uint16_t* p) { return split(_mm512_loadu_si512(p)); }
static inline Pair broadcast(const uint16_t* p) {
  int pair;
  memcpy(&pair, p, sizeof pair);
  return split(_mm512_set1_epi32(pair));
}
static inline F dot(F sum, const Pair& a, const Pair& b) { return fma(a.odd, b.odd, fma(a.even, b.even, sum)); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#include "runtime/step_kernels_body.h"
