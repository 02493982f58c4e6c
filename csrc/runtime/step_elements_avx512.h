// Elements of the step kernels on AVX-512: what both its files, with and without bfloat16 instructions, share.
#pragma once

#include "ops/cpu/simd_avx512.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static inline F load_weights(const float* p) { return load(p); }
static inline F broadcast(const float* p) { return _mm512_set1_ps(*p); }
static inline F dot(F sum, F a, F b) { return fma(a, b, sum); }
static inline F load_integers(const int32_t* p) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(p)); }
static inline F load_elements(const float* p) { return load(p); }
static inline F load_elements(const uint16_t* p) { return load_bf16(p); }
static inline void store_elements(float* p, F a) { store(p, a); }
// Rounds to nearest, ties to even.
static inline void store_elements(uint16_t* p, F a) {
#if defined(__AVX512BF16__)
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(a));
#else
  const __m512i bits = _mm512_castps_si512(a), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40))));
#endif
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
