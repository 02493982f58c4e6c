// Products with int8 weights by vpdpbusd: four depth indices of 16 columns per instruction, exact in 32 bits.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int kByteRows = 4, kBytePanels = 2;  // 16 sums, 2 weights, 2 inputs; with more GCC 12 spills

static inline __m512i broadcast4(const int8_t* p) {
  int bytes;
  memcpy(&bytes, p, sizeof bytes);
  return _mm512_set1_epi32(bytes);
}

template <int R, int P>
static void byte_dots(const PanelGemm& g, int64_t row, int64_t panel, int32_t (&high)[R][P * kPanel], int32_t (&low)[R][P * kPanel]) {
  const int64_t stride = kPanel * g.depth + kPanel * 4;
  const int8_t* a = static_cast<const int8_t*>(g.a) + row * g.lda;
  const uint8_t* w = static_cast<const uint8_t*>(g.w) + panel * stride;
  __m512i sums[R][P][2];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) sums[r][p][0] = sums[r][p][1] = _mm512_setzero_si512();
  for (int64_t k = 0; k < g.depth; k += 4) {
    __m512i weights[P];
    for (int p = 0; p < P; ++p) {
      __builtin_prefetch(w + p * stride + k * kPanel + kAhead);
      weights[p] = _mm512_loadu_si512(w + p * stride + k * kPanel);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512i x = broadcast4(a + r * g.lda + k), y = broadcast4(a + r * g.lda + g.depth + k);
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        sums[r][p][0] = _mm512_dpbusd_epi32(sums[r][p][0], weights[p], x);
        sums[r][p][1] = _mm512_dpbusd_epi32(sums[r][p][1], weights[p], y);
      }
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int p = 0; p < P; ++p) {
      _mm512_storeu_si512(high[r] + p * kPanel, sums[r][p][0]);
      _mm512_storeu_si512(low[r] + p * kPanel, sums[r][p][1]);
    }
  }
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
