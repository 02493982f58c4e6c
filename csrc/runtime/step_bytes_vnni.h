// Products with int8 weights by vpdpbusd: four depth indices of 16 columns per instruction, exact in 32 bits.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static inline __m512i broadcast4(const int8_t* p) {
  int bytes;
  memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

template <int R, int P, class Ahead>
static void byte_dots(const PanelGemm& g, int64_t row, int64_t panel, int32_t* high, int32_t* low, Ahead ahead) {
  const int64_t stride = kPanel * g.depth + kPanel * 4;
  const int8_t* a = static_cast<const int8_t*>(g.a) + row * g.lda;
  const uint8_t* w = static_cast<const uint8_t*>(g.w) + panel * stride;
  __m512i sums[R][P][2];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) sums[r][p][0] = sums[r][p][1] = _mm512_setzero_si512();
  constexpr int steps = P == 1 ? 2 : 1;
  for (int64_t k = 0; k < g.depth; k += 4 * steps) {
    __m512i weights[steps][P];
#pragma GCC unroll 2
    for (int t = 0; t < steps; ++t)
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const uint8_t* next = w + p * stride + (k + 4 * t) * kPanel;
        ahead.ask(next);
        weights[t][p] = _mm512_loadu_si512(next);
      }
    const int8_t *four = a + k, *low_four = four + g.depth;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      if (r % 4 == 0) {
        four = own_register(r ? four + 4 * g.lda : four);
        low_four = own_register(r ? low_four + 4 * g.lda : low_four);
      }
#pragma GCC unroll 2
      for (int t = 0; t < steps; ++t) {
        const __m512i x = broadcast4(four + r % 4 * g.lda + 4 * t), y = broadcast4(low_four + r % 4 * g.lda + 4 * t);
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
          sums[r][p][0] = _mm512_dpbusd_epi32(sums[r][p][0], weights[t][p], x);
          sums[r][p][1] = _mm512_dpbusd_epi32(sums[r][p][1], weights[t][p], y);
        }
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      _mm512_storeu_si512(high + r * kStrip + p * kPanel, sums[r][p][0]);
      _mm512_storeu_si512(low + r * kStrip + p * kPanel, sums[r][p][1]);
    }
  }
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
