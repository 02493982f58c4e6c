// Products of a few rows by vectors, in the order in which tiles add: a step of 32 depth indices is a sum over its even ones plus a
// sum over its odd ones, and goes to the total as one number; denormal numbers count as zero. Products of bfloat16 are exact in
// float32, so the results have the same bits as those of tiles, and vectors read memory faster where tiles have little to do.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "runtime/step_value_pairs.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kStep = kTileKeys;  // depth indices, or keys, that tiles add up before they add them to the total

namespace {

// Denormal numbers count as zero while it lives. What it governs must stand in functions of its own.
class FlushDenormals {
 public:
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }

 private:
  const unsigned saved_;
};

}  // namespace

// The even and the odd elements of 16 pairs, as floats.
static inline F even_floats(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
static inline F odd_floats(__m512i pairs) { return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xFFFF0000u)))); }

// Sums of R rows and P panels.
template <int R, int P>
__attribute__((noinline)) static void dots_in_tile_order(const PanelGemm& g, int64_t row, int64_t panel, float* sums) {
  F total[R][P];
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) total[r][p] = set1(0);
  const char* a = static_cast<const char*>(g.a) + row * g.lda;
  const int64_t stride = kPanel * g.depth;
  const uint16_t* w = static_cast<const uint16_t*>(g.w) + panel * stride;
  for (int64_t k = 0; k < g.depth; k += kStep) {
    float x[R][kStep];  // 16 even ones, 16 odd ones
    F even[R][P], odd[R][P];
    for (int r = 0; r < R; ++r) {
      const __m512i pairs = _mm512_loadu_si512(a + r * g.lda + 2 * k);
      store(x[r], even_floats(pairs));
      store(x[r] + kStep / 2, odd_floats(pairs));
      for (int p = 0; p < P; ++p) even[r][p] = odd[r][p] = set1(0);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kStep / 2; ++i) {
#pragma GCC unroll 4
      for (int p = 0; p < P; ++p) {
        const __m512i pairs = _mm512_loadu_si512(w + p * stride + (k + 2 * i) * kPanel);
        const F we = even_floats(pairs), wo = odd_floats(pairs);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          even[r][p] = fma(set1(x[r][i]), we, even[r][p]);
          odd[r][p] = fma(set1(x[r][kStep / 2 + i]), wo, odd[r][p]);
        }
      }
    }
    for (int r = 0; r < R; ++r)
      for (int p = 0; p < P; ++p) total[r][p] = add(total[r][p], add(even[r][p], odd[r][p]));
  }
  for (int r = 0; r < R; ++r)
    for (int p = 0; p < P; ++p) store(sums + r * kStrip + p * kPanel, total[r][p]);
}

static const int kFewRows = 2;

template <int R>
static void few_rows(const PanelGemm& g) {
  if (g.rows < R) {
    if constexpr (R > 1) few_rows<R - 1>(g);
    return;
  }
  constexpr int P = kStripPanels;
  float sums[R][kStrip];
  for (int64_t panel = g.panel_begin; panel < g.panel_end; panel += kStripPanels) {
    const int64_t count = g.panel_end - panel < kStripPanels ? g.panel_end - panel : kStripPanels;
    int64_t p = 0;
    for (; p + P <= count; p += P) dots_in_tile_order<R, P>(g, 0, panel + p, sums[0] + p * kPanel);
    for (; p < count; ++p) dots_in_tile_order<R, 1>(g, 0, panel + p, sums[0] + p * kPanel);
    finish<uint16_t>(g, 0, R, panel, count, sums);
  }
}

// out[r, :] += the products of R rows and C panels of dimensions, keys [begin, end) of them in steps from `begin` on.
template <int R, int C>
__attribute__((noinline)) static void weigh_in_tile_order(const WeightedValues& w, int64_t row, int64_t column) {
  for (int64_t start = w.begin; start < w.end; start += kStep) {
    const int64_t count = w.end - start < kStep ? w.end - start : kStep;
    float p[R][kStep];
    F sums[2][R][C];
    for (int r = 0; r < R; ++r) {
      for (int64_t j = 0; j < kStep; j += kLanes) store(p[r] + j, load_elements(weights_of(w, row + r) + start + j));
      for (int c = 0; c < C; ++c) sums[0][r][c] = sums[1][r][c] = set1(0);
    }
    const auto key = [&](int64_t j, F(&sum)[R][C]) __attribute__((always_inline)) {
      const uint16_t* value = static_cast<const uint16_t*>(w.v) + (w.slots ? w.slots[start + j] : start + j) * w.dim + column;
      for (int c = 0; c < C; ++c) {
        const F v = load_elements(value + c * kPanel);
        for (int r = 0; r < R; ++r) sum[r][c] = fma(set1(p[r][j]), v, sum[r][c]);
      }
    };
    int64_t j = 0;
    for (; j + 2 <= count; j += 2) {
      key(j, sums[0]);
      key(j + 1, sums[1]);
    }
    if (j < count) key(j, sums[0]);
    for (int r = 0; r < R; ++r)
      for (int c = 0; c < C; ++c) {
        float* out = w.out + (row + r) * w.ldo + column + c * kPanel;
        store(out, add(load(out), add(sums[0][r][c], sums[1][r][c])));
      }
  }
}

template <int R, int C>
static void weigh_few(const WeightedValues& w, int64_t begin, int64_t end) {
  for (int64_t column = begin; column < end; column += C * kPanel) {
    int64_t row = 0;
    for (; row + R <= w.rows; row += R) weigh_in_tile_order<R, C>(w, row, column);
    for (; row < w.rows; ++row) weigh_in_tile_order<1, C>(w, row, column);
  }
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
