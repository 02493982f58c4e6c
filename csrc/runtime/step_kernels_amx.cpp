// Products of bfloat16 by tiles of 16 rows, 16 columns and 32 depth indices; a packed panel is a column of weight tiles.
#define FD_SIMD_NAMESPACE amx
#include "runtime/amx_tiles.h"
#include "runtime/step_bytes_vnni.h"
#include "runtime/step_elements_avx512.h"
#include "runtime/step_pairs_bf16.h"
#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

template <class T>
struct Shape;
template <>
struct Shape<float> {
  static const int rows = 28, sums = 2;  // the float products stay with vectors
};

static void tile_gemm(const PanelGemm& g);
static void byte_tile_gemm(const PanelGemm& g);

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#define FD_BF16_GEMM tile_gemm
#define FD_BYTE_GEMM byte_tile_gemm
#include "runtime/step_kernels_body.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kTile = 16;

// Sums of up to 32 rows and P panels. Every sum takes the depth in the same steps, whatever the number of rows.
template <int P, bool Both>
static void tile_sums(const PanelGemm& g, int64_t row, int64_t panel, float (&sums)[2 * kTile][kStrip]) {
  FD_TILE_ZERO(0);
  if (P > 1) FD_TILE_ZERO(1);
  if (Both) FD_TILE_ZERO(2);
  if (Both && P > 1) FD_TILE_ZERO(3);
  const char* a = static_cast<const char*>(g.a) + row * g.lda;
  const uint16_t* w = static_cast<const uint16_t*>(g.w) + panel * kPanel * g.depth;
  for (int64_t k = 0; k < g.depth; k += 32) {
    FD_TILE_LOAD(6, w + k * kPanel, 64);
    if (P > 1) FD_TILE_LOAD(7, w + (g.depth + k) * kPanel, 64);
    FD_TILE_LOAD(4, a + 2 * k, g.lda);
    FD_TILE_DOT_BF16(0, 4, 6);
    if (P > 1) FD_TILE_DOT_BF16(1, 4, 7);
    if (!Both) continue;
    FD_TILE_LOAD(5, a + kTile * g.lda + 2 * k, g.lda);
    FD_TILE_DOT_BF16(2, 5, 6);
    if (P > 1) FD_TILE_DOT_BF16(3, 5, 7);
  }
  FD_TILE_STORE(0, sums[0], sizeof sums[0]);
  if (P > 1) FD_TILE_STORE(1, sums[0] + kTile, sizeof sums[0]);
  if (Both) FD_TILE_STORE(2, sums[kTile], sizeof sums[0]);
  if (Both && P > 1) FD_TILE_STORE(3, sums[kTile] + kTile, sizeof sums[0]);
}

template <int P>
static void tile_block(const PanelGemm& g, int64_t row, int64_t rows, int64_t panel) {
  alignas(64) float sums[2 * kTile][kStrip];
  if (rows > kTile)
    tile_sums<P, true>(g, row, panel, sums);
  else
    tile_sums<P, false>(g, row, panel, sums);
  finish<uint16_t>(g, row, rows, panel, P, sums);
}

static void tile_gemm(const PanelGemm& g) {
  for (int64_t row = 0; row < g.rows; row += 2 * kTile) {
    const int64_t rows = g.rows - row < 2 * kTile ? g.rows - row : 2 * kTile;
    tile_configure(int(rows < kTile ? rows : kTile), int(rows > kTile ? rows - kTile : 0));
    int64_t panel = g.panel_begin;
    for (; panel + 2 <= g.panel_end; panel += 2) tile_block<2>(g, row, rows, panel);
    if (panel < g.panel_end) tile_block<1>(g, row, rows, panel);
  }
  tile_release();
}

// Up to 16 rows and P panels of int8 weights: sums of the high bytes in tiles 0 and 1, of the low bytes in 2 and 3.
template <int P>
static void byte_tile_block(const PanelGemm& g, int64_t row, int64_t rows, int64_t panel) {
  const int64_t stride = kPanel * g.depth + kPanel * 4;
  const char *a = static_cast<const char*>(g.a) + row * g.lda, *w = static_cast<const char*>(g.w) + panel * stride;
  FD_TILE_ZERO(0);
  FD_TILE_ZERO(2);
  if (P > 1) FD_TILE_ZERO(1);
  if (P > 1) FD_TILE_ZERO(3);
  for (int64_t k = 0; k < g.depth; k += 64) {
    FD_TILE_LOAD(4, a + k, g.lda);
    FD_TILE_LOAD(5, a + g.depth + k, g.lda);
    FD_TILE_LOAD(6, w + k * kPanel, 64);
    FD_TILE_DOT_BYTES(0, 4, 6);
    FD_TILE_DOT_BYTES(2, 5, 6);
    if (P == 1) continue;
    FD_TILE_LOAD(7, w + stride + k * kPanel, 64);
    FD_TILE_DOT_BYTES(1, 4, 7);
    FD_TILE_DOT_BYTES(3, 5, 7);
  }
  int32_t high[kTile][kStrip], low[kTile][kStrip];
  float sums[kTile][kStrip];
  FD_TILE_STORE(0, high[0], sizeof high[0]);
  FD_TILE_STORE(2, low[0], sizeof low[0]);
  if (P > 1) FD_TILE_STORE(1, high[0] + kPanel, sizeof high[0]);
  if (P > 1) FD_TILE_STORE(3, low[0] + kPanel, sizeof low[0]);
  finish_bytes(g, row, rows, panel, P, high, low, sums);
}

static void byte_tile_gemm(const PanelGemm& g) {
  for (int64_t row = 0; row < g.rows; row += kTile) {
    const int64_t rows = g.rows - row < kTile ? g.rows - row : kTile;
    tile_configure(int(rows), int(rows));
    int64_t panel = g.panel_begin;
    for (; panel + 2 <= g.panel_end; panel += 2) byte_tile_block<2>(g, row, rows, panel);
    if (panel < g.panel_end) byte_tile_block<1>(g, row, rows, panel);
  }
  tile_release();
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
