// Products with int8 weights for machines without byte dot products: bytes are widened to 16 bits, pairs multiplied and added.
// The sums are exact integers, so they equal those of every other instruction set.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static inline __m256i broadcast4(const int8_t* p) {
  int bytes;
  memcpy(&bytes, p, sizeof bytes);
  return _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(bytes)));
}

// Lanes 2c and 2c + 1 of vector q hold the two halves of column 4q + c.
static inline void add_halves(const __m256i (&sums)[4], int32_t* out) {
  for (int q = 0; q < 4; ++q) {
    int32_t lane[8];
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(lane), sums[q]);
    for (int c = 0; c < 4; ++c) out[4 * q + c] = lane[2 * c] + lane[2 * c + 1];
  }
}

template <int R, int P, class Ahead>
static void byte_dots(const PanelGemm& g, int64_t row, int64_t panel, int32_t* high, int32_t* low, Ahead ahead) {
  for (int r = 0; r < R; ++r) {
    const int8_t *a = static_cast<const int8_t*>(g.a) + (row + r) * g.lda, *b = a + g.depth;
    for (int p = 0; p < P; ++p) {
      const uint8_t* w = static_cast<const uint8_t*>(g.w) + (panel + p) * (kPanel * g.depth + kPanel * 4);
      __m256i sums[2][4];
      for (int q = 0; q < 4; ++q) sums[0][q] = sums[1][q] = _mm256_setzero_si256();
      for (int64_t k = 0; k < g.depth; k += 4) {
        ahead.ask(w + k * kPanel);
        const __m256i x = broadcast4(a + k), y = broadcast4(b + k);
        for (int q = 0; q < 4; ++q) {  // 4 columns of 4 depth indices
          const __m256i weights = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w + k * kPanel + 16 * q)));
          sums[0][q] = _mm256_add_epi32(sums[0][q], _mm256_madd_epi16(weights, x));
          sums[1][q] = _mm256_add_epi32(sums[1][q], _mm256_madd_epi16(weights, y));
        }
      }
      add_halves(sums[0], high + r * kStrip + p * kPanel);
      add_halves(sums[1], low + r * kStrip + p * kPanel);
    }
  }
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
