// Weighted values by vdpbf16ps, which adds up the products of two keys.
#pragma once

#include <cstring>

#include "runtime/step_value_pairs.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

// The weights of two keys for every lane, the second of which may be missing.
__attribute__((always_inline)) static inline Pairs pair_of_weights(const uint16_t* p, bool both) {
  uint32_t pair;
  memcpy(&pair, p, sizeof pair);
  return {(__m512bh)_mm512_set1_epi32(int(both ? pair : pair & 0xFFFF))};
}

// out[R rows, P panels] += p[rows, count] times values as they lie in the cache.
template <int R, int P>
static void weigh_cached(const WeightedValues& w, int64_t row, int64_t column) {
  F acc[R][P];
  float* out = w.out + row * w.ldo + column;
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < P; ++c) acc[r][c] = load(out + r * w.ldo + c * kPanel);
  const auto value = [&](int64_t j) __attribute__((always_inline)) { return static_cast<const uint16_t*>(w.v) + (w.slots ? w.slots[j] : j) * w.dim + column; };
  for (int64_t j = w.begin; j < w.end; j += 2) {
    const uint16_t *even = value(j), *odd = j + 1 < w.end ? value(j + 1) : nullptr;
    Pairs values[P];
    for (int c = 0; c < P; ++c) values[c] = {(__m512bh)pair_of(even + c * kPanel, odd ? odd + c * kPanel : nullptr)};
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Pairs weights = pair_of_weights(weights_of(w, row + r) + j, odd);
      for (int c = 0; c < P; ++c) acc[r][c] = dot(acc[r][c], weights, values[c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < P; ++c) store(out + r * w.ldo + c * kPanel, acc[r][c]);
}

// out[R rows, P panels] += p[R, 2 * pairs] times values that are laid out.
template <int R, int P>
static void weigh_laid(const uint16_t* p, int64_t ldp, const uint16_t* tiles, int64_t pairs, int64_t dim, float* out, int64_t ldo) {
  F acc[R][P];
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < P; ++c) acc[r][c] = load(out + r * ldo + c * kPanel);
  for (int64_t i = 0; i < pairs; ++i) {
    const uint16_t* at = tiles + 2 * i / kTileKeys * kTileKeys * dim + 2 * i % kTileKeys * kPanel;
    Pairs values[P];
    for (int c = 0; c < P; ++c) values[c] = load_weights(at + c * kTileKeys * kPanel);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Pairs weights = broadcast(reinterpret_cast<const uint16_t*>(reinterpret_cast<const char*>(p) + r * ldp) + 2 * i);
      for (int c = 0; c < P; ++c) acc[r][c] = dot(acc[r][c], weights, values[c]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < P; ++c) store(out + r * ldo + c * kPanel, acc[r][c]);
}

static const int kRowsAtOnce = 6;  // with four panels: 24 sums, 4 values, 1 weight

template <int R, int P>
static void weigh_some_cached(const WeightedValues& w, int64_t row, int64_t rows, int64_t column) {
  if (rows == R) return weigh_cached<R, P>(w, row, column);
  if constexpr (R > 1) weigh_some_cached<R - 1, P>(w, row, rows, column);
}

template <int R, int P>
static void weigh_some_laid(int64_t rows, const uint16_t* p, int64_t ldp, const uint16_t* tiles, int64_t pairs, int64_t dim, float* out, int64_t ldo) {
  if (rows == R) return weigh_laid<R, P>(p, ldp, tiles, pairs, dim, out, ldo);
  if constexpr (R > 1) weigh_some_laid<R - 1, P>(rows, p, ldp, tiles, pairs, dim, out, ldo);
}

// Strips of four panels, then panels.
template <class Wide, class One>
static void columns_of(int64_t dim, const Wide& wide, const One& one) {
  int64_t column = 0;
  for (; column + 4 * kPanel <= dim; column += 4 * kPanel) wide(column);
  for (; column < dim; column += kPanel) one(column);
}

static void weigh_few_pairs(const WeightedValues& w) {
  for (int64_t row = 0; row < w.rows; row += kRowsAtOnce) {
    const int64_t rows = w.rows - row < kRowsAtOnce ? w.rows - row : kRowsAtOnce;
    columns_of(w.dim, [&](int64_t column) { weigh_some_cached<kRowsAtOnce, 4>(w, row, rows, column); }, [&](int64_t column) { weigh_some_cached<kRowsAtOnce, 1>(w, row, rows, column); });
  }
}

static void weigh_many_pairs(const WeightedValues& w) {
  alignas(64) uint16_t tiles[kKeys * kMostDims];
  for (int64_t start = w.begin; start < w.end; start += kKeys) {
    const int64_t count = w.end - start < kKeys ? w.end - start : kKeys, pairs = (count + 1) / 2;
    pair_values(w, start, count, tiles);
    for (int64_t row = 0; row < w.rows; row += kRowsAtOnce) {
      const int64_t rows = w.rows - row < kRowsAtOnce ? w.rows - row : kRowsAtOnce;
      const uint16_t* p = weights_of(w, row) + start;
      float* out = w.out + row * w.ldo;
      columns_of(w.dim, [&](int64_t column) { weigh_some_laid<kRowsAtOnce, 4>(rows, p, w.ldp, tiles + column * kTileKeys, pairs, w.dim, out + column, w.ldo); },
                 [&](int64_t column) { weigh_some_laid<kRowsAtOnce, 1>(rows, p, w.ldp, tiles + column * kTileKeys, pairs, w.dim, out + column, w.ldo); });
    }
  }
}

static void weigh_pairs(const WeightedValues& w) { w.rows > kRowsAtOnce && !w.slots ? weigh_many_pairs(w) : weigh_few_pairs(w); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
