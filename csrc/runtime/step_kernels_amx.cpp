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
  static const int rows = 28, sums = 2, wide = 0;  // the float products stay with vectors
};
template <>
struct Shape<int8_t> {
  static const int rows = 2, sums = 2, wide = 0;  // as do those of a few rows of bytes: integers are the same however they are added
};

static void tile_gemm(const PanelGemm& g);
static void byte_tile_gemm(const PanelGemm& g);
static void tile_weigh(const WeightedValues& w);

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#define FD_BF16_GEMM tile_gemm
#define FD_BYTE_GEMM byte_tile_gemm
#define FD_BF16_WEIGHTS softmax<uint16_t>, 2, tile_weigh, 32
#include "runtime/step_kernels_body.h"
#include "runtime/step_tile_order.h"
#include "runtime/step_value_pairs.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

namespace {  // classes have no `static`, and no other object may share these

const int64_t kTile = 16;

// A block of rows of a product with two panels (or the last one of an odd number), whose sums are there but not finished. Its rows
// are finished a few at a time between the tile instructions of the next block: vectors and tiles work side by side, and the
// weights that come next are asked for at an even pace.
struct TileBlock {
  int64_t row, rows, panel, panels, done;
};

// Sums of a block of float rows. Where nothing is to be done with them they go to their place at once.
struct FloatSums {
  TileBlock block;
  alignas(64) float sums[2 * kTile][kStrip];

  void finish_rows(const PanelGemm& g, int64_t count) {
    if (count > block.rows - block.done) count = block.rows - block.done;
    if (count <= 0) return;
    finish<uint16_t>(g, block.row + block.done, count, block.panel, block.panels, sums + block.done);
    block.done += count;
  }
};

// Up to 32 rows and P panels. Every sum takes the depth in the same steps, whatever the number of rows.
template <int P, bool Both>
void tile_sums(const PanelGemm& g, FloatSums& out, FloatSums& before, int turns) {
  FD_TILE_ZERO(0);
  if (P > 1) FD_TILE_ZERO(1);
  if (Both) FD_TILE_ZERO(2);
  if (Both && P > 1) FD_TILE_ZERO(3);
  const char* a = static_cast<const char*>(g.a) + out.block.row * g.lda;
  const uint16_t* w = static_cast<const uint16_t*>(g.w) + out.block.panel * kPanel * g.depth;
  const int64_t rows_per_step = (32 * before.block.rows + g.depth - 1) / g.depth;
  for (int64_t k = 0; k < g.depth; k += 32) {
    FD_TILE_LOAD_ONCE(6, w + k * kPanel, 64);
    FD_TILE_LOAD(4, a + 2 * k, g.lda);
    if (turns) g.stream->ask(turns);
    FD_TILE_DOT_BF16(0, 4, 6);
    if (P > 1) FD_TILE_LOAD_ONCE(7, w + (g.depth + k) * kPanel, 64);
    if (P > 1) FD_TILE_DOT_BF16(1, 4, 7);
    before.finish_rows(g, rows_per_step);
    if (!Both) continue;
    FD_TILE_LOAD(5, a + kTile * g.lda + 2 * k, g.lda);
    FD_TILE_DOT_BF16(2, 5, 6);
    if (P > 1) FD_TILE_DOT_BF16(3, 5, 7);
  }
  const bool finished = g.epilogue == Epilogue::store && !g.bias;
  float* to = finished ? g.out + out.block.row * g.ldo + out.block.panel * kPanel : out.sums[0];
  const int64_t ld = finished ? g.ldo : kStrip;
  FD_TILE_STORE(0, to, ld * 4);
  if (P > 1) FD_TILE_STORE(1, to + kTile, ld * 4);
  if (Both) FD_TILE_STORE(2, to + kTile * ld, ld * 4);
  if (Both && P > 1) FD_TILE_STORE(3, to + kTile * ld + kTile, ld * 4);
  if (finished) out.block.done = out.block.rows;
}

struct FloatTiles {
  using Sums = FloatSums;
  static const int64_t rows = 2 * kTile;  // of a block
  static int64_t panel_bytes(int64_t depth) { return kPanel * depth * 2; }

  static void configure(int64_t n) { tile_configure(int(n < kTile ? n : kTile), int(n > kTile ? n - kTile : 0)); }
  static void run(const PanelGemm& g, FloatSums& out, FloatSums& before, int turns) {
    if (out.block.panels > 1)
      out.block.rows > kTile ? tile_sums<2, true>(g, out, before, turns) : tile_sums<2, false>(g, out, before, turns);
    else
      out.block.rows > kTile ? tile_sums<1, true>(g, out, before, turns) : tile_sums<1, false>(g, out, before, turns);
  }
};

// Sums over the high and the low bytes of the inputs.
struct ByteSums {
  TileBlock block;
  alignas(64) int32_t high[kTile][kStrip], low[kTile][kStrip];

  void finish_rows(const PanelGemm& g, int64_t count) {
    if (count > block.rows - block.done) count = block.rows - block.done;
    if (count <= 0) return;
    float sums[kTile][kStrip];
    finish_bytes(g, block.row + block.done, count, block.panel, block.panels, high + block.done, low + block.done, sums);
    block.done += count;
  }
};

// Up to 16 rows and P panels of int8 weights: sums of the high bytes in tiles 0 and 1, of the low bytes in 2 and 3.
template <int P>
void byte_tile_sums(const PanelGemm& g, ByteSums& out, ByteSums& before, int turns) {
  const int64_t stride = kPanel * g.depth + kPanel * 4;
  const char *a = static_cast<const char*>(g.a) + out.block.row * g.lda, *w = static_cast<const char*>(g.w) + out.block.panel * stride;
  const int64_t rows_per_step = (64 * before.block.rows + g.depth - 1) / g.depth;
  FD_TILE_ZERO(0);
  FD_TILE_ZERO(2);
  if (P > 1) FD_TILE_ZERO(1);
  if (P > 1) FD_TILE_ZERO(3);
  for (int64_t k = 0; k < g.depth; k += 64) {
    FD_TILE_LOAD_ONCE(6, w + k * kPanel, 64);
    FD_TILE_LOAD(4, a + k, g.lda);
    FD_TILE_LOAD(5, a + g.depth + k, g.lda);
    if (turns) g.stream->ask(turns);
    FD_TILE_DOT_BYTES(0, 4, 6);
    FD_TILE_DOT_BYTES(2, 5, 6);
    before.finish_rows(g, rows_per_step);
    if (P == 1) continue;
    FD_TILE_LOAD_ONCE(7, w + stride + k * kPanel, 64);
    FD_TILE_DOT_BYTES(1, 4, 7);
    FD_TILE_DOT_BYTES(3, 5, 7);
  }
  FD_TILE_STORE(0, out.high[0], sizeof out.high[0]);
  FD_TILE_STORE(2, out.low[0], sizeof out.low[0]);
  if (P > 1) FD_TILE_STORE(1, out.high[0] + kPanel, sizeof out.high[0]);
  if (P > 1) FD_TILE_STORE(3, out.low[0] + kPanel, sizeof out.low[0]);
}

struct ByteTiles {
  using Sums = ByteSums;
  static const int64_t rows = kTile;
  static int64_t panel_bytes(int64_t depth) { return kPanel * (depth + 4); }

  static void configure(int64_t n) { tile_configure(int(n), int(n)); }
  static void run(const PanelGemm& g, ByteSums& out, ByteSums& before, int turns) { out.block.panels > 1 ? byte_tile_sums<2>(g, out, before, turns) : byte_tile_sums<1>(g, out, before, turns); }
};

static const int64_t kPanelsAhead = 8;

// Blocks of nearly equal size. Weights that come from memory meet all rows before the next two panels are read: a step over two
// panels reads 2 KB. So do keys, unless the blocks differ: a change of their number of rows costs time.
template <class Tiles>
class TileProduct {
 public:
  explicit TileProduct(const PanelGemm& g) : g_(g), blocks_((g.rows + Tiles::rows - 1) / Tiles::rows) { sums_[1].block = {}; }
  ~TileProduct() {
    sums_[now_ ^ 1].finish_rows(g_, Tiles::rows);
    tile_release();
  }

  void run() {
    if (g_.stream)
      run_from_memory();
    else if (g_.rows % blocks_ == 0)
      run_from_cache();
    else
      for (int64_t b = 0; b < blocks_; ++b)
        for (int64_t panel = g_.panel_begin; panel < g_.panel_end; panel += 2) step(b, panel, 0);
  }

 private:
  void run_from_memory() {
    for (int64_t panel = g_.panel_begin; panel < g_.panel_end; panel += 2) {
      const int turns = g_.stream->near_ahead() ? 0 : int((8 + blocks_ - 1) / blocks_);
      for (int64_t b = 0; b < blocks_; ++b) step(b, panel, turns);
      g_.stream->use(2 * Tiles::panel_bytes(g_.depth));
    }
  }

  // Blocks of one size. The panels that follow are asked for at an even pace, for whatever product they belong to.
  void run_from_cache() {
    const int64_t lines = 2 * Tiles::panel_bytes(g_.depth) / 64;
    for (int64_t panel = g_.panel_begin; panel < g_.panel_end; panel += 2) {
      const char* ahead = static_cast<const char*>(g_.w) + (panel + kPanelsAhead) * Tiles::panel_bytes(g_.depth);
      for (int64_t b = 0; b < blocks_; ++b) {
        for (int64_t line = lines * b / blocks_; line < lines * (b + 1) / blocks_; ++line) __builtin_prefetch(ahead + 64 * line, 0, 2);
        step(b, panel, 0);
      }
    }
  }

  __attribute__((always_inline)) void step(int64_t b, int64_t panel, int turns) {
    const int64_t row = g_.rows * b / blocks_, rows = g_.rows * (b + 1) / blocks_ - row;
    if (rows != configured_) Tiles::configure(configured_ = rows);
    sums_[now_].block = {row, rows, panel, g_.panel_end - panel < 2 ? 1 : 2, 0};
    Tiles::run(g_, sums_[now_], sums_[now_ ^ 1], turns);
    now_ ^= 1;
    sums_[now_].finish_rows(g_, Tiles::rows);
  }

  const PanelGemm& g_;
  const int64_t blocks_;
  int64_t configured_ = 0;
  int now_ = 0;
  typename Tiles::Sums sums_[2];
};

}  // namespace

static void tile_gemm(const PanelGemm& g) {
  const FlushDenormals flush;
  g.rows <= kFewRows ? few_rows<kFewRows>(g) : TileProduct<FloatTiles>(g).run();
}

static void byte_tile_gemm(const PanelGemm& g) { g.rows <= Shape<int8_t>::rows ? gemm<int8_t>(g) : TileProduct<ByteTiles>(g).run(); }

static const int64_t kFewQueries = 8;  // that are not worth laying out values for tiles

// out[rows, P panels] += p[rows, steps * 32] times values.
template <int P>
static void tile_weights(const uint16_t* p, int64_t ldp, const uint16_t* values, int64_t steps, int64_t dim, float* out, int64_t ldo) {
  const int64_t ld = ldo * 4;
  FD_TILE_LOAD(0, out, ld);
  if (P > 1) FD_TILE_LOAD(1, out + kTile, ld);
  if (P > 2) FD_TILE_LOAD(2, out + 2 * kTile, ld);
  if (P > 3) FD_TILE_LOAD(3, out + 3 * kTile, ld);
  for (int64_t s = 0; s < steps; ++s, p += kStep, values += kStep * dim) {
    const int64_t tile = kStep * kPanel;
    FD_TILE_LOAD(4, p, ldp);
    FD_TILE_LOAD(6, values, 64);
    FD_TILE_DOT_BF16(0, 4, 6);
    if (P > 1) FD_TILE_LOAD(7, values + tile, 64);
    if (P > 1) FD_TILE_DOT_BF16(1, 4, 7);
    if (P > 2) FD_TILE_LOAD(6, values + 2 * tile, 64);
    if (P > 2) FD_TILE_DOT_BF16(2, 4, 6);
    if (P > 3) FD_TILE_LOAD(7, values + 3 * tile, 64);
    if (P > 3) FD_TILE_DOT_BF16(3, 4, 7);
  }
  FD_TILE_STORE(0, out, ld);
  if (P > 1) FD_TILE_STORE(1, out + kTile, ld);
  if (P > 2) FD_TILE_STORE(2, out + 2 * kTile, ld);
  if (P > 3) FD_TILE_STORE(3, out + 3 * kTile, ld);
}

static void weigh_many(const WeightedValues& w) {
  alignas(64) uint16_t values[kKeys * kMostDims];
  int64_t configured = 0;
  for (int64_t start = w.begin; start < w.end; start += kKeys) {
    const int64_t count = w.end - start < kKeys ? w.end - start : kKeys, steps = (count + kStep - 1) / kStep;
    pair_values(w, start, count, values);
    for (int64_t row = 0; row < w.rows; row += kTile) {
      const int64_t rows = w.rows - row < kTile ? w.rows - row : kTile;
      if (rows != configured) tile_configure(int(rows), int(rows));
      configured = rows;
      const uint16_t* p = weights_of(w, row) + start;
      int64_t panel = 0;
      const int64_t panels = w.dim / kPanel;
      const auto columns = [&](auto weights, int64_t wide) {
        for (; panel + wide <= panels; panel += wide) weights(p, w.ldp, values + panel * kStep * kPanel, steps, w.dim, w.out + row * w.ldo + panel * kPanel, w.ldo);
      };
      columns(tile_weights<4>, 4);
      columns(tile_weights<2>, 2);
      columns(tile_weights<1>, 1);
    }
  }
  tile_release();
}

static void tile_weigh(const WeightedValues& w) {
  if (!w.slots && w.rows > kFewQueries) return weigh_many(w);
  const FlushDenormals flush;
  const int64_t strips = w.dim / (4 * kPanel) * 4 * kPanel;
  weigh_few<3, 4>(w, 0, strips);
  weigh_few<3, 1>(w, strips, w.dim);
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
