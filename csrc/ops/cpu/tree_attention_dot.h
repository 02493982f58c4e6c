// Scores of tree_attention: lanes are query rows, so that each score is one lane's own sum over the dimension, in order.
// Needs a simd_*.h header; FD_PAIR_DOT selects products of bfloat16 pairs (vdpbf16ps, two dimensions per step).
#pragma once

#include <cstring>

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kDotKeys = 4;
static const int64_t kDotTiles = kLanes == 16 ? 4 : kLanes == 8 ? 2 : 1;  // tiles of kLanes rows; as many sums as registers hold

#if defined(FD_PAIR_DOT)
static bool dot_reads_in_place(int) { return true; }
static bool in_pairs(int dtype) { return dtype == kBFloat16; }
static inline F step(F sum, F queries, const void* key, int64_t pair) {
  return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(queries), (__m512bh)_mm512_set1_epi32(static_cast<const int32_t*>(key)[pair]));
}
#else
static bool dot_reads_in_place(int dtype) { return dtype == kFloat32; }
static bool in_pairs(int) { return false; }
static inline F step(F sum, F, const void*, int64_t) { return sum; }
#endif

// bfloat16 -> floats, zeros up to `padded`.
static const float* widen(const uint16_t* x, int64_t n, int64_t padded, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(out + i, load_bf16(x + i));
  for (; i < n; ++i) out[i] = float_of_bf16(x[i]);
  for (; i < padded; ++i) out[i] = 0;
  return out;
}

static const float* pad(const float* x, int64_t n, int64_t padded, float* out) {
  for (int64_t i = 0; i < padded; ++i) out[i] = i < n ? x[i] : 0.0f;
  return out;
}

// Rows to tiles [tile, step, lane]; a step is one dimension as float, or a pair of bfloat16. Missing rows are zero.
static void pack_queries(const char* query, int dtype, const int64_t* stride, int64_t group, int64_t first_row, int64_t rows, int64_t dim, float* packed) {
  const int64_t steps = in_pairs(dtype) ? dim / 2 : dim;
  for (int64_t r = 0; r < (rows + kLanes - 1) / kLanes * kLanes; ++r) {
    const int64_t row = first_row + r;
    const char* from = query + (row % group * stride[1] + row / group * stride[2]) * bytes_of(dtype);
    float* to = packed + r / kLanes * kLanes * dim + r % kLanes;
    for (int64_t d = 0; d < steps; ++d) {
      if (r >= rows)
        to[d * kLanes] = 0;
      else if (in_pairs(dtype))
        memcpy(to + d * kLanes, from + 4 * d, 4);
      else
        to[d * kLanes] = element(from, dtype, d);
    }
  }
}

// Scores of `tiles` row tiles with kDotKeys keys; `tiles` and `pairs` are constants at every call.
__attribute__((always_inline)) static inline void dot_tile(int64_t tiles, bool pairs, const float* queries, int64_t dim, const void* const* keys, float scaling, float* scores) {
  F sum[kDotTiles][kDotKeys];
#pragma GCC unroll 8
  for (int64_t t = 0; t < tiles; ++t)
#pragma GCC unroll 8
    for (int64_t k = 0; k < kDotKeys; ++k) sum[t][k] = set1(0);
  const int64_t steps = pairs ? dim / 2 : dim;
  for (int64_t d = 0; d < steps; ++d) {
    F q[kDotTiles];
#pragma GCC unroll 8
    for (int64_t t = 0; t < tiles; ++t) q[t] = load(queries + (t * dim + d) * kLanes);
#pragma GCC unroll 8
    for (int64_t k = 0; k < kDotKeys; ++k)
#pragma GCC unroll 8
      for (int64_t t = 0; t < tiles; ++t)
        sum[t][k] = pairs ? step(sum[t][k], q[t], keys[k], d) : fma(q[t], set1(static_cast<const float*>(keys[k])[d]), sum[t][k]);
  }
#pragma GCC unroll 8
  for (int64_t t = 0; t < tiles; ++t)
#pragma GCC unroll 8
    for (int64_t k = 0; k < kDotKeys; ++k) store(scores + k * kAttentionRows + t * kLanes, mul(sum[t][k], set1(scaling)));
}

__attribute__((always_inline)) static inline void dot_rows(int64_t tiles, bool pairs, const float* queries, int64_t dim, const void* const* keys, int64_t n, float scaling, float* scores) {
  for (int64_t k = 0; k < n; k += kDotKeys) dot_tile(tiles, pairs, queries, dim, keys + k, scaling, scores + k * kAttentionRows);
}

// scores[key, row] of `rows` packed rows and n keys; both may be rounded up.
static void dots(const float* queries, int dtype, int64_t dim, int64_t rows, const void* const* keys, int64_t n, float scaling, float* scores) {
  for (int64_t r = 0; r < rows;) {
    const float* q = queries + r * dim;
    float* s = scores + r;
    const bool full = rows - r > (kDotTiles - 1) * kLanes;
    if (full && in_pairs(dtype))
      dot_rows(kDotTiles, true, q, dim, keys, n, scaling, s);
    else if (full)
      dot_rows(kDotTiles, false, q, dim, keys, n, scaling, s);
    else if (in_pairs(dtype))
      dot_rows(1, true, q, dim, keys, n, scaling, s);
    else
      dot_rows(1, false, q, dim, keys, n, scaling, s);
    r += full ? kDotTiles * kLanes : kLanes;
  }
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
