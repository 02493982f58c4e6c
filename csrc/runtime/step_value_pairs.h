// Values two keys at a time, as the bfloat16 instructions of vectors and of tiles take them.
#pragma once

#include <immintrin.h>

#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kTileKeys = 32;                          // keys of a tile of values,
static const int64_t kKeys = 4 * kTileKeys, kMostDims = 512;  // and those that are laid out at a time

static inline const uint16_t* weights_of(const WeightedValues& w, int64_t row) { return reinterpret_cast<const uint16_t*>(static_cast<const char*>(w.p) + row * w.ldp); }

// 16 dimensions of two keys, the second of which may be missing.
__attribute__((always_inline)) static inline __m512i pair_of(const uint16_t* even, const uint16_t* odd) {
  const auto words = [](const uint16_t* v) __attribute__((always_inline)) { return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(v))); };
  return odd ? _mm512_or_si512(words(even), _mm512_slli_epi32(words(odd), 16)) : words(even);
}

// The keys [start, start + count), at most kKeys, as tiles of 16 pairs of keys and 16 dimensions: [count / 32][dim / 16]. The
// last tiles are filled up with zeros.
static void pair_values(const WeightedValues& w, int64_t start, int64_t count, uint16_t* tiles) {
  const uint16_t* v = static_cast<const uint16_t*>(w.v) + start * w.dim;
  for (int64_t j = 0; j < (count + kTileKeys - 1) / kTileKeys * kTileKeys; j += 2) {
    uint16_t* pair = tiles + j / kTileKeys * kTileKeys * w.dim + j % kTileKeys * kPanel;
    for (int64_t c = 0; c < w.dim; c += kPanel, pair += kTileKeys * kPanel)
      _mm512_store_si512(pair, j < count ? pair_of(v + j * w.dim + c, j + 1 < count ? v + (j + 1) * w.dim + c : nullptr) : _mm512_setzero_si512());
  }
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
