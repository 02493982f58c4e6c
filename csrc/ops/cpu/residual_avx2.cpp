// Only tokens that can still win reach double precision; 8 Philox counters give the high words of 32 tokens at once.
#include <immintrin.h>

#include "fastdecode/race.cuh"
#include "ops/cpu/residual_isa.h"

namespace fastdecode {
namespace avx2 {

struct Products {
  __m256i high, low;
};

static inline Products multiply(__m256i a, uint32_t b) {
  const __m256i factor = _mm256_set1_epi64x(b);
  const __m256i even = _mm256_mul_epu32(a, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), factor);
  return {_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA), _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA)};
}

// High words of the uniform numbers of the tokens 4 * block ... 4 * block + 31, in token order.
static inline void high_words(const Stream& s, uint32_t block, __m256i out[4]) {
  // The counters are laid out so that the 4x4 transpositions below, inside 128-bit lanes, end in token order.
  const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
  __m256i c0 = _mm256_add_epi32(_mm256_set1_epi32(int(block)), order), c1 = _mm256_setzero_si256();
  __m256i c2 = _mm256_set1_epi32(int(s.counter2)), c3 = _mm256_set1_epi32(int(s.counter3));
  uint32_t key0 = s.key0, key1 = s.key1;
  for (int round = 0; round < 10; ++round) {
    const Products a = multiply(c0, 0xD2511F53u), b = multiply(c2, 0xCD9E8D57u);
    c0 = _mm256_xor_si256(_mm256_xor_si256(b.high, c1), _mm256_set1_epi32(int(key0)));
    c1 = b.low;
    c2 = _mm256_xor_si256(_mm256_xor_si256(a.high, c3), _mm256_set1_epi32(int(key1)));
    c3 = a.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const __m256i ab_low = _mm256_unpacklo_epi32(c0, c1), ab_high = _mm256_unpackhi_epi32(c0, c1);
  const __m256i cd_low = _mm256_unpacklo_epi32(c2, c3), cd_high = _mm256_unpackhi_epi32(c2, c3);
  out[0] = _mm256_unpacklo_epi64(ab_low, cd_low);
  out[1] = _mm256_unpackhi_epi64(ab_low, cd_low);
  out[2] = _mm256_unpacklo_epi64(ab_high, cd_high);
  out[3] = _mm256_unpackhi_epi64(ab_high, cd_high);
}

static inline double exact_weight(const ResidualRow& row, int64_t v) { return row.q ? row.scale * row.p[v] - row.q[v] : row.p[v]; }

// Weights rounded to float: good enough to screen, as the margin in race_row is far wider than the rounding. A positive weight
// stays positive, because the smallest ones are raised: that only sends more tokens to the exact evaluation.
static inline __m256 raised(__m256 w, __m256 positive) { return _mm256_blendv_ps(w, _mm256_max_ps(w, _mm256_set1_ps(1e-30f)), positive); }

static inline __m256 screen_weights(const ResidualRow& row, int64_t v, __m256i lanes) {
  const __m256 p = _mm256_maskload_ps(row.p + v, lanes);
  if (!row.q) return raised(p, _mm256_cmp_ps(p, _mm256_setzero_ps(), _CMP_GT_OQ));
  const __m256 q = _mm256_maskload_ps(row.q + v, lanes);
  const __m256d scale = _mm256_set1_pd(row.scale), zero = _mm256_setzero_pd();
  const __m256d low = _mm256_sub_pd(_mm256_mul_pd(scale, _mm256_cvtps_pd(_mm256_castps256_ps128(p))), _mm256_cvtps_pd(_mm256_castps256_ps128(q)));
  const __m256d high = _mm256_sub_pd(_mm256_mul_pd(scale, _mm256_cvtps_pd(_mm256_extractf128_ps(p, 1))), _mm256_cvtps_pd(_mm256_extractf128_ps(q, 1)));
  const int positive = _mm256_movemask_pd(_mm256_cmp_pd(low, zero, _CMP_GT_OQ)) | _mm256_movemask_pd(_mm256_cmp_pd(high, zero, _CMP_GT_OQ)) << 4;
  const __m256i bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
  const __m256i lane_positive = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(positive), bits), bits);
  return raised(_mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low)), _mm256_castsi256_ps(lane_positive));
}

static inline __m256i tail_mask(int64_t left) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(left >= 8 ? 8 : int(left)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

int32_t race_row(const ResidualRow& row, const Stream& stream) {
  Race race = race_start();
  const __m256 to_unit = _mm256_set1_ps(float(0x1p-31 * (1 - 0x1p-18)));
  for (int64_t v = 0; v < row.vocab; v += 32) {
    __m256 w[4], positive[4];
    int any = 0;
    for (int i = 0; i < 4; ++i) {
      const int64_t left = row.vocab - v - 8 * i;
      w[i] = left > 0 ? screen_weights(row, v + 8 * i, tail_mask(left)) : _mm256_setzero_ps();
      if (_mm256_movemask_ps(_mm256_cmp_ps(w[i], _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ))) return -1;
      positive[i] = _mm256_cmp_ps(w[i], _mm256_setzero_ps(), _CMP_GT_OQ);
      any |= _mm256_movemask_ps(positive[i]);
    }
    if (!any) continue;
    __m256i words[4];
    high_words(stream, uint32_t(v >> 2), words);
    for (int i = 0; i < 4; ++i) {
      const __m256 limit = _mm256_mul_ps(_mm256_set1_ps(float(race.time)), w[i]);
      // AVX2 converts signed integers only: dropping the lowest bit keeps a lower bound.
      const __m256 least = _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32(words[i], 1)), to_unit);
      unsigned candidates = unsigned(_mm256_movemask_ps(_mm256_and_ps(positive[i], _mm256_cmp_ps(least, limit, _CMP_LE_OQ))));
      if (!candidates) continue;
      alignas(32) uint32_t high[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(high), words[i]);
      for (; candidates; candidates &= candidates - 1) {
        const int lane = __builtin_ctz(candidates);
        const int64_t token = v + 8 * i + lane;
        race_enter(race, stream, uint32_t(token), exact_weight(row, token), high[lane]);
      }
    }
  }
  return race_result(race);
}

}  // namespace avx2
}  // namespace fastdecode
