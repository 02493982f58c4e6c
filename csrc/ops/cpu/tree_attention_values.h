// Sums of probabilities times values in tree_attention: lanes are dimensions, each element is a chain of FMAs in key order.
// Needs a simd_*.h header.
#pragma once

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kSumRows = kLanes == 1 ? 1 : 4;
static const int64_t kSumVectors = kLanes == 16 ? 4 : kLanes == 8 ? 2 : 1;

// `rows` and `vectors` are constants at every call.
__attribute__((always_inline)) static inline void add_tile(int64_t rows, int64_t vectors, const float* probs, const float* const* values, int64_t n, const float* scales, int64_t ld, int64_t d, float* sums) {
  F sum[kSumRows][kSumVectors];
#pragma GCC unroll 8
  for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int64_t v = 0; v < vectors; ++v) {
      const F old = load(sums + r * ld + d + v * kLanes);
      sum[r][v] = scales ? mul(old, set1(scales[r])) : old;
    }
  for (int64_t k = 0; k < n; ++k) {
    F value[kSumVectors];
#pragma GCC unroll 8
    for (int64_t v = 0; v < vectors; ++v) value[v] = load(values[k] + d + v * kLanes);
#pragma GCC unroll 8
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
      for (int64_t v = 0; v < vectors; ++v) sum[r][v] = fma(set1(probs[k * kAttentionRows + r]), value[v], sum[r][v]);
  }
#pragma GCC unroll 8
  for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 8
    for (int64_t v = 0; v < vectors; ++v) store(sums + r * ld + d + v * kLanes, sum[r][v]);
}

__attribute__((always_inline)) static inline void add_rows(int64_t rows, const float* probs, const float* const* values, int64_t n, const float* scales, int64_t ld, float* sums) {
  int64_t d = 0;
  for (; d + kSumVectors * kLanes <= ld; d += kSumVectors * kLanes) add_tile(rows, kSumVectors, probs, values, n, scales, ld, d, sums);
  for (; d < ld; d += kLanes) add_tile(rows, 1, probs, values, n, scales, ld, d, sums);
}

// sums[row, :] = sums[row, :] * scales[row] + sum over keys of probs[key, row] values[key]; scales null: 1. ld: padded dimension.
static void add_values(const float* probs, const float* const* values, int64_t n, const float* scales, int64_t rows, int64_t ld, float* sums) {
  int64_t r = 0;
  for (; r + kSumRows <= rows; r += kSumRows) add_rows(kSumRows, probs + r, values, n, scales ? scales + r : nullptr, ld, sums + r * ld);
  for (; r < rows; ++r) add_rows(1, probs + r, values, n, scales ? scales + r : nullptr, ld, sums + r * ld);
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
