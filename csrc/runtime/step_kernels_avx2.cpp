#define FD_SIMD_NAMESPACE avx2
#include "ops/cpu/simd_avx2.h"
#include "runtime/step_bytes_madd.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

template <class T>
struct Shape;
template <>
struct Shape<float> {
  static const int rows = 6, sums = 4, wide = 0;  // 12 vectors of sums, 2 of weights, 1 of inputs
};
template <>
struct Shape<uint16_t> {
  static const int rows = 5, sums = 1, wide = 0;  // 10 vectors of sums, 4 halves of weights, 2 of inputs
};
template <>
struct Shape<int8_t> {
  static const int rows = 1, sums = 2, wide = 0;
};

struct Pair {
  F even, odd;
};

static inline Pair split(__m256i pairs) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)), _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(int(0xFFFF0000u))))};
}

static inline F load_weights(const float* p) { return load(p); }
static inline Pair load_weights(const uint16_t* p) { return split(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline F broadcast(const float* p) { return _mm256_broadcast_ss(p); }
static inline Pair broadcast(const uint16_t* p) {
  int pair;
  memcpy(&pair, p, sizeof pair);
  return split(_mm256_set1_epi32(pair));
}
static inline F dot(F sum, F a, F b) { return fma(a, b, sum); }
static inline F dot(F sum, const Pair& a, const Pair& b) { return fma(a.odd, b.odd, fma(a.even, b.even, sum)); }
static inline F load_integers(const int32_t* p) { return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline F load_elements(const float* p) { return load(p); }
static inline F load_elements(const uint16_t* p) { return load_bf16(p); }
static inline void store_elements(float* p, F a) { store(p, a); }
static inline void store_elements(uint16_t* p, F a) {
  const __m256i bits = _mm256_castps_si256(a), nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF))), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i words = _mm256_blendv_epi8(rounded, quiet, nan);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), 0x88);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#include "runtime/step_kernels_body.h"
