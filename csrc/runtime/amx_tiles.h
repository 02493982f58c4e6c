// The tile instructions that the AMX kernels use, with tile numbers as constants. FD_AMX_EMULATED replaces them by portable
// code, so that the kernels can be tested on machines without AMX.
//
// Tiles 0 ... 3 hold sums (two row blocks x two panels), 4 and 5 inputs of the row blocks, 6 and 7 weights of the panels.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>

#include "ops/cpu/convert.h"

namespace fastdecode {
namespace amx {

#if defined(FD_AMX_EMULATED)

static thread_local uint8_t tile_data[8][16][64];
static thread_local uint8_t tile_rows[8];

template <int T>
static void tile_load(const void* from, int64_t stride) {
  for (int r = 0; r < tile_rows[T]; ++r) memcpy(tile_data[T][r], static_cast<const char*>(from) + r * stride, 64);
}
template <int T>
static void tile_store(void* to, int64_t stride) {
  for (int r = 0; r < tile_rows[T]; ++r) memcpy(static_cast<char*>(to) + r * stride, tile_data[T][r], 64);
}
template <int T>
static void tile_zero() {
  memset(tile_data[T], 0, sizeof tile_data[T]);
}
// sums[r, n] += even products + odd products, each added up over the 16 pairs.
template <int C, int A, int B>
static void tile_dot_bf16() {
  for (int r = 0; r < tile_rows[C]; ++r) {
    for (int n = 0; n < 16; ++n) {
      float sum[2] = {};
      for (int k = 0; k < 16; ++k) {
        uint16_t a[2], b[2];
        memcpy(a, tile_data[A][r] + 4 * k, 4);
        memcpy(b, tile_data[B][k] + 4 * n, 4);
        for (int i = 0; i < 2; ++i) sum[i] = std::fma(float_of_bf16(a[i]), float_of_bf16(b[i]), sum[i]);
      }
      float c;
      memcpy(&c, tile_data[C][r] + 4 * n, 4);
      c += sum[0] + sum[1];
      memcpy(tile_data[C][r] + 4 * n, &c, 4);
    }
  }
}
// sums[r, n] += signed bytes of the inputs times unsigned bytes of the weights, 64 of them.
template <int C, int A, int B>
static void tile_dot_bytes() {
  for (int r = 0; r < tile_rows[C]; ++r) {
    for (int n = 0; n < 16; ++n) {
      int32_t c;
      memcpy(&c, tile_data[C][r] + 4 * n, 4);
      for (int k = 0; k < 64; ++k) c += int32_t(int8_t(tile_data[A][r][k])) * tile_data[B][k / 4][4 * n + k % 4];
      memcpy(tile_data[C][r] + 4 * n, &c, 4);
    }
  }
}
static void tile_release() {}

#define FD_TILE_LOAD(t, from, stride) tile_load<t>(from, stride)
#define FD_TILE_LOAD_ONCE(t, from, stride) tile_load<t>(from, stride)
#define FD_TILE_STORE(t, to, stride) tile_store<t>(to, stride)
#define FD_TILE_ZERO(t) tile_zero<t>()
#define FD_TILE_DOT_BF16(c, a, b) tile_dot_bf16<c, a, b>()
#define FD_TILE_DOT_BYTES(c, a, b) tile_dot_bytes<c, a, b>()

#else

// Macros, because the intrinsics paste the tile numbers into the names of registers.
#define FD_TILE_LOAD(t, from, stride) _tile_loadd(t, from, stride)
#define FD_TILE_LOAD_ONCE(t, from, stride) _tile_stream_loadd(t, from, stride)  // leaves the first level of the cache to the inputs
#define FD_TILE_STORE(t, to, stride) _tile_stored(t, to, stride)
#define FD_TILE_ZERO(t) _tile_zero(t)
#define FD_TILE_DOT_BF16(c, a, b) _tile_dpbf16ps(c, a, b)
#define FD_TILE_DOT_BYTES(c, a, b) _tile_dpbsud(c, a, b)
static inline void tile_release() { _tile_release(); }

#endif

// Rows of the two row blocks, at most 16 each; a block of 0 rows leaves its tiles unused.
static inline void tile_configure(int rows0, int rows1) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } config;
  const int rows[8] = {rows0, rows0, rows1, rows1, rows0, rows1, 16, 16};
  for (int t = 0; t < 8; ++t) {
    config.rows[t] = uint8_t(rows[t]);
    config.bytes[t] = rows[t] ? 64 : 0;
  }
#if defined(FD_AMX_EMULATED)
  memcpy(tile_rows, config.rows, sizeof tile_rows);
#else
  _tile_loadconfig(&config);
#endif
}

}  // namespace amx
}  // namespace fastdecode
