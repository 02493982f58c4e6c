// Products of some rows with packed weights, for step_kernels_body.h. Needs a simd_*.h and, for both element types: Weights, Inputs,
// load_weights(const T*), broadcast(const T*), dot(F, Inputs, Weights), load_elements(const T*) -> F, store_elements(T*, F), and
// for int8: load_integers(const int32_t*) -> F, byte_dots; Shape<T>: most rows at a time, the sums (rows x panels) that keep
// the arithmetic busy, and most rows with two panels at a time, for products of more (0: none).
#include <cstring>

#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int kVectors = kPanel / kLanes;  // that make up 16 columns

template <class T>
struct Pack {
  static const int step = 4 / sizeof(T);  // depth indices that one vector holds
};

template <class T>
static inline int64_t panel_bytes_of(int64_t depth) {
  return kPanel * depth * int64_t(sizeof(T)) + (sizeof(T) == 1 ? kPanel * 4 : 0);
}

// 1 / (1 + exp(-a)), without overflow on either side.
static inline F sigmoid(F a) {
  const F zero = set1(0), one = set1(1), e = exp(sub(zero, max(a, sub(zero, a))));
  return div(select(ge(a, zero), one, e), add(one, e));
}

static inline F silu(F a) { return mul(a, sigmoid(a)); }

// The tanh form of GELU: (1 + tanh(u)) / 2 = sigmoid(2u).
static inline F gelu(F a) {
  const F cubic = fma(mul(mul(a, a), a), set1(0.044715f), a);
  return mul(a, sigmoid(mul(cubic, set1(1.5957691216f))));
}

// Bias and epilogue of the sums of some rows and of `count` panels.
template <class T>
static void finish(const PanelGemm& g, int64_t row, int64_t rows, int64_t panel, int64_t count, float (*sums)[kStrip]) {
  const int64_t columns = count * kPanel;
  for (int64_t r = 0; r < rows; ++r) {
    float* s = sums[r];
    if (g.bias)
      for (int64_t c = 0; c < columns; c += kLanes) store(s + c, add(load(s + c), load(g.bias + panel * kPanel + c)));
    if (g.epilogue == Epilogue::store || g.epilogue == Epilogue::add) {
      float* out = g.out + (row + r) * g.ldo + panel * kPanel;
      for (int64_t c = 0; c < columns; c += kLanes) store(out + c, g.epilogue == Epilogue::add ? add(load(out + c), load(s + c)) : load(s + c));
    } else {
      T* out = static_cast<T*>(g.gated) + (row + r) * g.ld_gated + panel / 2 * kPanel;
      for (int64_t c = 0; c + kPanel < columns; c += 2 * kPanel)
        for (int64_t i = 0; i < kPanel; i += kLanes) {
          const F gate = load(s + c + i), up = load(s + c + kPanel + i);
          store_elements(out + c / 2 + i, mul(g.epilogue == Epilogue::silu ? silu(gate) : gelu(gate), up));
        }
    }
  }
}

// Which weights products ask for while they read a vector of others: the one kAhead behind it, to be kept or to be read just once,
template <bool Once>
struct AskNear {
  __attribute__((always_inline)) void ask(const void* vector) { __builtin_prefetch(static_cast<const char*>(vector) + kAhead, 0, Once ? 0 : 2); }
  __attribute__((always_inline)) AskNear behind(int64_t) const { return {}; }
};

// or those from `next` on, so many bytes for every vector.
struct AskFar {
  const char* next;
  int64_t pace;

  __attribute__((always_inline)) void ask(const void*) {
    __builtin_prefetch(next, 0, 2);
    next += pace;
  }
  __attribute__((always_inline)) AskFar behind(int64_t vectors) const { return {next + vectors * pace, pace}; }
};

// Sums of R rows and P panels. With many rows one panel is enough: its weights are read once, as one stream, and the products
// of all rows hide the time that they take to come.
template <class T, int R, int P, class Ahead>
static void dots(const PanelGemm& g, int64_t row, int64_t panel, float* sums, Ahead ahead) {
  constexpr int vectors = P * kVectors, steps = vectors == 1 ? 2 : 1;
  F acc[R][vectors];
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < vectors; ++j) acc[r][j] = set1(0);
  const char* a = static_cast<const char*>(g.a) + row * g.lda;
  const int64_t stride = kPanel * g.depth;
  const T* w = static_cast<const T*>(g.w) + panel * stride;
  for (int64_t k = 0; k < g.depth; k += steps * Pack<T>::step) {
    decltype(load_weights(w)) weights[steps][vectors];
#pragma GCC unroll 2
    for (int t = 0; t < steps; ++t)
#pragma GCC unroll 16
      for (int j = 0; j < vectors; ++j) {
        const T* next = w + j / kVectors * stride + (k + t * Pack<T>::step) * kPanel + j % kVectors * kLanes * Pack<T>::step;
        ahead.ask(next);
        weights[t][j] = load_weights(next);
      }
    const char* four = a + k * int64_t(sizeof(T));
#pragma GCC unroll 32
    for (int r = 0; r < R; ++r) {
      if (r % 4 == 0) four = own_register(r ? four + 4 * g.lda : four);
#pragma GCC unroll 2
      for (int t = 0; t < steps; ++t) {
        const auto x = broadcast(reinterpret_cast<const T*>(four + r % 4 * g.lda) + t * Pack<T>::step);
#pragma GCC unroll 16
        for (int j = 0; j < vectors; ++j) acc[r][j] = dot(acc[r][j], x, weights[t][j]);
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int j = 0; j < vectors; ++j) store(sums + r * kStrip + j * kLanes, acc[r][j]);
}

// From the exact sums over high and low bytes to the product.
static void finish_bytes(const PanelGemm& g, int64_t row, int64_t rows, int64_t panel, int64_t count, const int32_t (*high)[kStrip], const int32_t (*low)[kStrip], float (*sums)[kStrip]) {
  for (int64_t r = 0; r < rows; ++r) {
    ByteRowEnd end;
    memcpy(&end, static_cast<const char*>(g.a) + (row + r) * g.lda + 2 * g.depth, sizeof end);
    for (int64_t p = 0; p < count; ++p) {
      const float* scales = reinterpret_cast<const float*>(static_cast<const char*>(g.w) + (panel + p) * panel_bytes_of<int8_t>(g.depth) + kPanel * g.depth);
      for (int64_t i = 0; i < kPanel; i += kLanes) {
        int32_t halves[2][kLanes];
        for (int l = 0; l < kLanes; ++l) {
          halves[0][l] = high[r][p * kPanel + i + l] - end.high_sum;
          halves[1][l] = low[r][p * kPanel + i + l] - end.low_sum;
        }
        store(sums[r] + p * kPanel + i, mul(fma(load_integers(halves[0]), set1(128), load_integers(halves[1])), mul(load(scales + i), set1(end.scale))));
      }
    }
  }
  finish<float>(g, row, rows, panel, count, sums);
}

// As many panels at a time as keep at least that many sums going, at most a strip. Each is a stream of weights of its own, and one
// stream is read faster than several: more than one sum only pays where a single one would wait for itself.
template <class T>
static constexpr int panels_with(int rows) {
  const int panels = Shape<T>::sums / rows;
  return panels < 1 ? 1 : panels > kStripPanels ? kStripPanels : panels;
}

// One strip of up to kStripPanels panels, P at a time.
template <class T, int R, int P, class Ahead>
static void strip(const PanelGemm& g, int64_t row, int64_t panel, int64_t count, const Ahead& ahead) {
  const int64_t vectors = panel_bytes_of<T>(g.depth) / 64;
  float sums[R][kStrip];
  if constexpr (sizeof(T) == 1) {
    int32_t high[R][kStrip], low[R][kStrip];
    int64_t p = 0;
    for (; p + P <= count; p += P) byte_dots<R, P>(g, row, panel + p, high[0] + p * kPanel, low[0] + p * kPanel, ahead.behind(p * vectors));
    for (; p < count; ++p) byte_dots<R, 1>(g, row, panel + p, high[0] + p * kPanel, low[0] + p * kPanel, ahead.behind(p * vectors));
    finish_bytes(g, row, R, panel, count, high, low, sums);
  } else {
    int64_t p = 0;
    for (; p + P <= count; p += P) dots<T, R, P>(g, row, panel + p, sums[0] + p * kPanel, ahead.behind(p * vectors));
    for (; p < count; ++p) dots<T, R, 1>(g, row, panel + p, sums[0] + p * kPanel, ahead.behind(p * vectors));
    finish<T>(g, row, R, panel, count, sums);
  }
}

// The same for as many rows as there are, at most R.
template <class T, int R, bool Once>
static void strip_of(const PanelGemm& g, int64_t row, int64_t rows, int64_t panel, int64_t count, const AskNear<Once>& near) {
  if (rows == R) return strip<T, R, panels_with<T>(R)>(g, row, panel, count, near);
  if constexpr (R > 1) strip_of<T, R - 1>(g, row, rows, panel, count, near);
}

template <class T, int R>
static void strip_of(const PanelGemm& g, int64_t row, int64_t rows, int64_t panel, int64_t count, const AskFar& far) {
  if (rows == R) return strip<T, R, 2>(g, row, panel, count, far);
  if constexpr (R > 1) strip_of<T, R - 1>(g, row, rows, panel, count, far);
}

// Rows in groups of nearly equal size, of at most that many; ahead(panel, count, i, groups): what group i asks for meanwhile.
template <class T, int Most, class Ahead>
static void in_groups(const PanelGemm& g, const Ahead& ahead) {
  const int64_t groups = (g.rows + Most - 1) / Most;
  for (int64_t panel = g.panel_begin; panel < g.panel_end; panel += kStripPanels) {
    const int64_t left = g.panel_end - panel, count = left < kStripPanels ? left : kStripPanels;
    for (int64_t i = 0, row = 0; i < groups; ++i) {
      const int64_t next = g.rows * (i + 1) / groups;
      strip_of<T, Most>(g, row, next - row, panel, count, ahead(panel, count, i, groups));
      row = next;
    }
  }
}

// So many rows that the arithmetic takes longer than their weights take to come: the groups share the strip behind, which has all
// that time, and two panels at a time save half of the reads of inputs.
template <class T>
static void gemm_wide(const PanelGemm& g) {
  const int64_t bytes = panel_bytes_of<T>(g.depth);
  in_groups<T, Shape<T>::wide>(g, [&](int64_t panel, int64_t count, int64_t i, int64_t groups) {
    return AskFar{static_cast<const char*>(g.w) + (panel + count) * bytes + count * bytes * i / groups, (64 + groups - 1) / groups};
  });
}

template <class T>
static void gemm(const PanelGemm& g) {
  if constexpr (Shape<T>::wide > 0) {
    if (g.rows > Shape<T>::rows) return gemm_wide<T>(g);
  }
  if (g.once && g.rows <= Shape<T>::rows) return in_groups<T, Shape<T>::rows>(g, [](int64_t, int64_t, int64_t, int64_t) { return AskNear<true>{}; });
  in_groups<T, Shape<T>::rows>(g, [](int64_t, int64_t, int64_t, int64_t) { return AskNear<false>{}; });
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
