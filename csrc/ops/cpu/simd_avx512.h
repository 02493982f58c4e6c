// The vector interface of simd_scalar.h with 16 lanes: AVX-512 F, BW, DQ, VL.
#pragma once

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 warns about its own intrinsics (its bug 105593)
#include <immintrin.h>

#include <cstdint>

#include "fastdecode/exp.cuh"
#include "fastdecode/philox.cuh"
#include "ops/cpu/convert.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

typedef __m512 F;
static const int kLanes = 16;

static inline F load(const float* p) { return _mm512_loadu_ps(p); }
static inline F load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
static inline F load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
static inline F load_doubles(const double* p) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(_mm512_loadu_pd(p))), _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8)), 1);
}
static inline void store(float* p, F a) { _mm512_storeu_ps(p, a); }
static inline F set1(float a) { return _mm512_set1_ps(a); }
static inline F add(F a, F b) { return _mm512_add_ps(a, b); }
static inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
static inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
static inline F div(F a, F b) { return _mm512_div_ps(a, b); }
static inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
static inline F max(F a, F b) { return _mm512_max_ps(a, b); }
static inline uint32_t gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
static inline uint32_t ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
static inline uint32_t unordered(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q); }
static inline F select(uint32_t bits, F a, F b) { return _mm512_mask_mov_ps(b, __mmask16(bits), a); }
static inline float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
static inline double reduce_add(F a) {
  return _mm512_reduce_add_pd(_mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(a)), _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1))));
}

// exp(a) = 2^n exp(r), r = a - n ln 2 in two steps (Cody and Waite), exp(r) by a degree-6 minimax polynomial: within
// 2 ulp, exactly 1 at 0, NaN at NaN.
static inline F exp(F a) {
  const F n = _mm512_roundscale_ps(mul(a, set1(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F r = fma(n, set1(-1.42860682e-6f), fma(n, set1(-0.693145752f), a));
  F p = fma(set1(kExpC6), r, set1(kExpC5));
  p = fma(p, r, set1(kExpC4));
  p = fma(p, r, set1(kExpC3));
  p = fma(p, r, set1(0.5f));
  p = fma(mul(r, r), p, r);
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(a, set1(kExpUnderflow), _CMP_NLT_UQ), add(p, set1(1.0f)), n);
}

// 2^a for a <= 0: within 3 ulp, exactly 1 at 0, 0 at -inf, NaN at NaN.
static inline F exp2(F a) {
  const F r = _mm512_reduce_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);  // a without its nearest integer
  F p = fma(set1(kExp2C5), r, set1(kExp2C4));
  p = fma(p, r, set1(kExp2C3));
  p = fma(p, r, set1(kExp2C2));
  p = fma(p, r, set1(kExp2C1));
  p = fma(p, r, set1(1.0f));
  return _mm512_scalef_ps(p, sub(a, r));
}

// The same for what is rounded to bfloat16 next: within 0.011 %.
static inline F exp2_near(F a) {
  const F r = _mm512_reduce_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  F p = fma(set1(kExp2D3), r, set1(kExp2D2));
  p = fma(p, r, set1(kExp2D1));
  p = fma(p, r, set1(1.0f));
  return _mm512_scalef_ps(p, sub(a, r));
}

// One Philox multiplication: 32 x 32 -> high and low words of all lanes.
static inline void multiply_wide(__m512i x, __m512i factor, __m512i* high, __m512i* low) {
  const __m512i even = _mm512_mul_epu32(x, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(x, 32), factor);
  *high = _mm512_mask_shuffle_epi32(odd, 0x5555, even, _MM_PERM_DDBB);
  *low = _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}

static inline uint64_t spread4(uint32_t mask) {  // bit i -> bit 4 i
  uint64_t x = mask;
  x = (x | x << 24) & 0x000000FF000000FFull;
  x = (x | x << 12) & 0x000F000F000F000Full;
  x = (x | x << 6) & 0x0303030303030303ull;
  return (x | x << 3) & 0x1111111111111111ull;
}

static inline uint64_t plane0_at_most(const Stream& s, uint32_t counter, uint32_t limit, uint32_t* words) {
  const __m512i factor0 = _mm512_set1_epi64(0xD2511F53), factor1 = _mm512_set1_epi64(0xCD9E8D57), lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m512i w0 = _mm512_add_epi32(_mm512_set1_epi32(int(counter)), lane), w1 = _mm512_setzero_si512();
  __m512i w2 = _mm512_set1_epi32(int(s.counter2)), w3 = _mm512_set1_epi32(int(s.counter3));
  uint32_t key0 = s.key0, key1 = s.key1;
  for (int round = 0; round < 10; ++round) {
    __m512i high0, low0, high1, low1;
    multiply_wide(w0, factor0, &high0, &low0);
    multiply_wide(w2, factor1, &high1, &low1);
    w0 = _mm512_ternarylogic_epi32(high1, w1, _mm512_set1_epi32(int(key0)), 0x96);  // three-way xor
    w2 = _mm512_ternarylogic_epi32(high0, w3, _mm512_set1_epi32(int(key1)), 0x96);
    w1 = low1;
    w3 = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const __m512i most = _mm512_set1_epi32(int(limit));
  const uint32_t m0 = _mm512_cmple_epu32_mask(w0, most), m1 = _mm512_cmple_epu32_mask(w1, most);
  const uint32_t m2 = _mm512_cmple_epu32_mask(w2, most), m3 = _mm512_cmple_epu32_mask(w3, most);
  if (!(m0 | m1 | m2 | m3)) return 0;
  const __m512i stride = _mm512_slli_epi32(lane, 2);  // word k of lane i is index 4 i + k
  _mm512_i32scatter_epi32(words, stride, w0, 4);
  _mm512_i32scatter_epi32(words + 1, stride, w1, 4);
  _mm512_i32scatter_epi32(words + 2, stride, w2, 4);
  _mm512_i32scatter_epi32(words + 3, stride, w3, 4);
  return spread4(m0) | spread4(m1) << 1 | spread4(m2) << 2 | spread4(m3) << 3;
}

// Writes whole vectors: values and ids need kLanes spare elements behind the last one.
static inline int64_t compress(float* values, int32_t* ids, uint32_t bits, F a, int32_t first) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  _mm512_storeu_ps(values, _mm512_maskz_compress_ps(__mmask16(bits), a));
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(__mmask16(bits), _mm512_add_epi32(lane, _mm512_set1_epi32(first))));
  return __builtin_popcount(bits);
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
