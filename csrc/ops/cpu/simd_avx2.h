// The vector interface of simd_scalar.h with 8 lanes: AVX2, FMA, F16C.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "fastdecode/exp.cuh"
#include "fastdecode/philox.cuh"
#include "ops/cpu/convert.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

typedef __m256 F;
static const int kLanes = 8;

static inline F load(const float* p) { return _mm256_loadu_ps(p); }
static inline F load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
static inline F load_f16(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
static inline F load_doubles(const double* p) { return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(p))); }
static inline void store(float* p, F a) { _mm256_storeu_ps(p, a); }
static inline F set1(float a) { return _mm256_set1_ps(a); }
static inline F add(F a, F b) { return _mm256_add_ps(a, b); }
static inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
static inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
static inline F div(F a, F b) { return _mm256_div_ps(a, b); }
static inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
static inline F max(F a, F b) { return _mm256_max_ps(a, b); }
static inline uint32_t gt(F a, F b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ))); }
static inline uint32_t ge(F a, F b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ))); }
static inline uint32_t unordered(F a, F b) { return uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q))); }
static inline F select(uint32_t bits, F a, F b) {
  const __m256i bit = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
  return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(int(bits)), bit), bit)));
}
static inline float reduce_max(F a) {
  float lane[8];
  store(lane, a);
  float m = lane[0];
  for (int i = 1; i < 8; ++i) m = lane[i] > m ? lane[i] : m;
  return m;
}
static inline double reduce_add(F a) {
  double lane[4];
  _mm256_storeu_pd(lane, _mm256_add_pd(_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1))));
  return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

// As in simd_avx512.h; 2^n is put together from its exponent bits, n >= -126 wherever the result is kept.
static inline F exp(F a) {
  const F n = _mm256_round_ps(mul(a, set1(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F r = fma(n, set1(-1.42860682e-6f), fma(n, set1(-0.693145752f), a));
  F p = fma(set1(kExpC6), r, set1(kExpC5));
  p = fma(p, r, set1(kExpC4));
  p = fma(p, r, set1(kExpC3));
  p = fma(p, r, set1(0.5f));
  p = fma(mul(r, r), p, r);
  const F power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  return _mm256_and_ps(_mm256_cmp_ps(a, set1(kExpUnderflow), _CMP_NLT_UQ), mul(add(p, set1(1.0f)), power));
}

// 2^a for a <= 0: within 3 ulp, exactly 1 at 0, NaN at NaN, 0 where it is smaller than the smallest normal float.
static inline F exp2(F a) {
  const F n = _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), r = sub(a, n);
  F p = fma(set1(kExp2C5), r, set1(kExp2C4));
  p = fma(p, r, set1(kExp2C3));
  p = fma(p, r, set1(kExp2C2));
  p = fma(p, r, set1(kExp2C1));
  p = fma(p, r, set1(1.0f));
  const F power = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
  return _mm256_and_ps(_mm256_cmp_ps(a, set1(-126.0f), _CMP_NLT_UQ), mul(p, power));
}

static inline void multiply_wide(__m256i x, __m256i factor, __m256i* high, __m256i* low) {
  const __m256i even = _mm256_mul_epu32(x, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

static inline __m256i at_most(__m256i x, __m256i limit) { return _mm256_cmpeq_epi32(_mm256_min_epu32(x, limit), x); }

static inline uint64_t plane0_at_most(const Stream& s, uint32_t counter, uint32_t limit, uint32_t* words) {
  const __m256i factor0 = _mm256_set1_epi64x(0xD2511F53), factor1 = _mm256_set1_epi64x(0xCD9E8D57);
  __m256i w[4] = {_mm256_add_epi32(_mm256_set1_epi32(int(counter)), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0)), _mm256_setzero_si256(),
                  _mm256_set1_epi32(int(s.counter2)), _mm256_set1_epi32(int(s.counter3))};
  uint32_t key0 = s.key0, key1 = s.key1;
  for (int round = 0; round < 10; ++round) {
    __m256i high0, low0, high1, low1;
    multiply_wide(w[0], factor0, &high0, &low0);
    multiply_wide(w[2], factor1, &high1, &low1);
    w[0] = _mm256_xor_si256(_mm256_xor_si256(high1, w[1]), _mm256_set1_epi32(int(key0)));
    w[2] = _mm256_xor_si256(_mm256_xor_si256(high0, w[3]), _mm256_set1_epi32(int(key1)));
    w[1] = low1;
    w[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const __m256i most = _mm256_set1_epi32(int(limit));
  const __m256i any = _mm256_or_si256(_mm256_or_si256(at_most(w[0], most), at_most(w[1], most)), _mm256_or_si256(at_most(w[2], most), at_most(w[3], most)));
  if (_mm256_testz_si256(any, any)) return 0;
  uint32_t lane[4][8];
  for (int k = 0; k < 4; ++k) _mm256_storeu_si256(reinterpret_cast<__m256i*>(lane[k]), w[k]);
  uint64_t bits = 0;
  for (int i = 0; i < 32; ++i) {
    words[i] = lane[i & 3][i >> 2];
    bits |= uint64_t(words[i] <= limit) << i;
  }
  return bits;
}

static inline int64_t compress(float* values, int32_t* ids, uint32_t bits, F a, int32_t first) {
  float lane[8];
  store(lane, a);
  int64_t n = 0;
  for (; bits; bits &= bits - 1, ++n) {
    const int i = __builtin_ctz(bits);
    values[n] = lane[i];
    ids[n] = first + i;
  }
  return n;
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
