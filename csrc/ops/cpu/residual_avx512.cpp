// Only tokens that can still win reach double precision; 16 Philox counters give the high words of 64 tokens at once.
#include <immintrin.h>

#include "fastdecode/race.cuh"
#include "ops/cpu/residual_isa.h"

namespace fastdecode {
namespace avx512 {

struct Products {
  __m512i high, low;
};

static inline Products multiply(__m512i a, uint32_t b) {
  const __m512i factor = _mm512_set1_epi64(b);
  const __m512i even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
  return {_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd), _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32))};
}

// High words of the uniform numbers of the tokens 4 * block ... 4 * block + 63, in token order.
static inline void high_words(const Stream& s, uint32_t block, __m512i out[4]) {
  // The counters are laid out so that the 4x4 transpositions below, inside 128-bit lanes, end in token order.
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i c0 = _mm512_add_epi32(_mm512_set1_epi32(int(block)), order), c1 = _mm512_setzero_si512();
  __m512i c2 = _mm512_set1_epi32(int(s.counter2)), c3 = _mm512_set1_epi32(int(s.counter3));
  uint32_t key0 = s.key0, key1 = s.key1;
  for (int round = 0; round < 10; ++round) {
    const Products a = multiply(c0, 0xD2511F53u), b = multiply(c2, 0xCD9E8D57u);
    c0 = _mm512_xor_si512(_mm512_xor_si512(b.high, c1), _mm512_set1_epi32(int(key0)));
    c1 = b.low;
    c2 = _mm512_xor_si512(_mm512_xor_si512(a.high, c3), _mm512_set1_epi32(int(key1)));
    c3 = a.low;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  const __m512i ab_low = _mm512_unpacklo_epi32(c0, c1), ab_high = _mm512_unpackhi_epi32(c0, c1);
  const __m512i cd_low = _mm512_unpacklo_epi32(c2, c3), cd_high = _mm512_unpackhi_epi32(c2, c3);
  out[0] = _mm512_unpacklo_epi64(ab_low, cd_low);
  out[1] = _mm512_unpackhi_epi64(ab_low, cd_low);
  out[2] = _mm512_unpacklo_epi64(ab_high, cd_high);
  out[3] = _mm512_unpackhi_epi64(ab_high, cd_high);
}

static inline double exact_weight(const ResidualRow& row, int64_t v) { return row.q ? row.scale * row.p[v] - row.q[v] : row.p[v]; }

// Weights rounded to float: good enough to screen, as the margin in race_row is far wider than the rounding. A positive weight
// stays positive, because the smallest ones are raised: that only sends more tokens to the exact evaluation.
static inline __m512 screen_weights(const ResidualRow& row, int64_t v, __mmask16 lanes) {
  const __m512 p = _mm512_maskz_loadu_ps(lanes, row.p + v), floor = _mm512_set1_ps(1e-30f);
  if (!row.q) return _mm512_mask_max_ps(p, _mm512_cmp_ps_mask(p, _mm512_setzero_ps(), _CMP_GT_OQ), p, floor);
  const __m512 q = _mm512_maskz_loadu_ps(lanes, row.q + v);
  const __m512d scale = _mm512_set1_pd(row.scale);
  const __m512d low = _mm512_sub_pd(_mm512_mul_pd(scale, _mm512_cvtps_pd(_mm512_castps512_ps256(p))), _mm512_cvtps_pd(_mm512_castps512_ps256(q)));
  const __m512d high = _mm512_sub_pd(_mm512_mul_pd(scale, _mm512_cvtps_pd(_mm512_extractf32x8_ps(p, 1))), _mm512_cvtps_pd(_mm512_extractf32x8_ps(q, 1)));
  const __mmask16 positive = __mmask16(_mm512_cmp_pd_mask(low, _mm512_setzero_pd(), _CMP_GT_OQ)) |
                             __mmask16(_mm512_cmp_pd_mask(high, _mm512_setzero_pd(), _CMP_GT_OQ) << 8);
  const __m512 w = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(low)), _mm512_cvtpd_ps(high), 1);
  return _mm512_mask_max_ps(w, positive, w, floor);
}

static inline __mmask16 tail_mask(int64_t left) { return left >= 16 ? __mmask16(0xFFFF) : left <= 0 ? __mmask16(0) : __mmask16((1u << left) - 1); }

int32_t race_row(const ResidualRow& row, const Stream& stream) {
  Race race = race_start();
  const __m512 to_unit = _mm512_set1_ps(float(0x1p-32 * (1 - 0x1p-18)));
  for (int64_t v = 0; v < row.vocab; v += 64) {
    __m512 w[4];
    __mmask16 positive[4];
    int any = 0;
    for (int i = 0; i < 4; ++i) {
      w[i] = screen_weights(row, v + 16 * i, tail_mask(row.vocab - v - 16 * i));
      if (_mm512_cmp_ps_mask(w[i], _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ)) return -1;
      positive[i] = _mm512_cmp_ps_mask(w[i], _mm512_setzero_ps(), _CMP_GT_OQ);
      any |= positive[i];
    }
    if (!any) continue;
    __m512i words[4];
    high_words(stream, uint32_t(v >> 2), words);
    for (int i = 0; i < 4; ++i) {
      const __m512 limit = _mm512_mul_ps(_mm512_set1_ps(float(race.time)), w[i]);
      const __m512 least = _mm512_mul_ps(_mm512_cvtepu32_ps(words[i]), to_unit);
      unsigned candidates = _mm512_mask_cmp_ps_mask(positive[i], least, limit, _CMP_LE_OQ);
      if (!candidates) continue;
      alignas(64) uint32_t high[16];
      _mm512_store_si512(high, words[i]);
      for (; candidates; candidates &= candidates - 1) {
        const int lane = __builtin_ctz(candidates);
        const int64_t token = v + 16 * i + lane;
        race_enter(race, stream, uint32_t(token), exact_weight(row, token), high[lane]);
      }
    }
  }
  return race_result(race);
}

}  // namespace avx512
}  // namespace fastdecode
