// Bodies of step_kernels.h, compiled once per instruction set. Needs a simd_*.h and, for both element types: Weights, Inputs,
// load_weights(const T*), broadcast(const T*), dot(F, Inputs, Weights), load_elements(const T*) -> F, store_elements(T*, F), and
// for int8: load_integers(const int32_t*) -> F, byte_dots; Shape<T>: most rows at a time, and the sums (rows x panels) that keep
// the arithmetic busy.
#include <cfloat>
#include <cmath>

#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int kVectors = kPanel / kLanes;  // that make up 16 columns

template <class T>
struct Pack {
  static const int step = 4 / sizeof(T);  // depth indices that one vector holds
};

static inline float first_lane(F a) {
  float lane[kLanes];
  store(lane, a);
  return lane[0];
}

static inline float exp1(float a) { return first_lane(exp(set1(a))); }

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

// Sums of R rows and P panels. With many rows one panel is enough: its weights are read once, as one stream, and the products
// of all rows hide the time that they take to come.
template <class T, int R, int P>
static void dots(const PanelGemm& g, int64_t row, int64_t panel, float* sums) {
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
        __builtin_prefetch(reinterpret_cast<const char*>(next) + kAhead, 0, 2);
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
      const float* scales = reinterpret_cast<const float*>(static_cast<const char*>(g.w) + (panel + p) * panel_bytes(Element::i8, g.depth) + kPanel * g.depth);
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

// As many panels at a time as keep at least that many sums going, at most a strip.
template <class T>
static constexpr int panels_with(int rows) {
  const int panels = Shape<T>::sums / rows;
  return panels < 1 ? 1 : panels > kStripPanels ? kStripPanels : panels;
}

// One strip of up to kStripPanels panels.
template <class T, int R>
static void strip(const PanelGemm& g, int64_t row, int64_t rows, int64_t panel, int64_t count) {
  if (rows < R) {
    if constexpr (R > 1) strip<T, R - 1>(g, row, rows, panel, count);
    return;
  }
  constexpr int P = panels_with<T>(R);
  float sums[R][kStrip];
  if constexpr (sizeof(T) == 1) {
    int32_t high[R][kStrip], low[R][kStrip];
    int64_t p = 0;
    for (; p + P <= count; p += P) byte_dots<R, P>(g, row, panel + p, high[0] + p * kPanel, low[0] + p * kPanel);
    for (; p < count; ++p) byte_dots<R, 1>(g, row, panel + p, high[0] + p * kPanel, low[0] + p * kPanel);
    finish_bytes(g, row, R, panel, count, high, low, sums);
  } else {
    int64_t p = 0;
    for (; p + P <= count; p += P) dots<T, R, P>(g, row, panel + p, sums[0] + p * kPanel);
    for (; p < count; ++p) dots<T, R, 1>(g, row, panel + p, sums[0] + p * kPanel);
    finish<T>(g, row, R, panel, count, sums);
  }
}

template <class T>
static void gemm(const PanelGemm& g) {
  constexpr int most = Shape<T>::rows;
  const int64_t groups = (g.rows + most - 1) / most;  // of nearly equal size
  for (int64_t panel = g.panel_begin; panel < g.panel_end; panel += kStripPanels) {
    const int64_t left = g.panel_end - panel, count = left < kStripPanels ? left : kStripPanels;
    for (int64_t i = 0, row = 0; i < groups; ++i) {
      const int64_t next = g.rows * (i + 1) / groups;
      strip<T, most>(g, row, next - row, panel, count);
      row = next;
    }
  }
}

static float inverse_rms(const float* x, int64_t n, float epsilon) {
  F sum = set1(0);
  for (int64_t i = 0; i < n; i += kLanes) sum = fma(load(x + i), load(x + i), sum);  // behind n: zeros
  return 1 / std::sqrt(float(reduce_add(sum)) / float(n) + epsilon);
}

// value(i), i < n, as a row of bytes; a value that is not finite makes the whole product NaN.
template <class Value>
static void to_bytes(int64_t n, int64_t depth, void* out, const Value& value) {
  int8_t *high = static_cast<int8_t*>(out), *low = high + depth;
  float most = 0;
  int bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    const float a = std::fabs(value(i));
    bad |= !(a <= FLT_MAX);
    most = a > most ? a : most;
  }
  const float scale = bad ? NAN : most / 16383, inverse = bad || most == 0 ? 0 : 16383 / most;
  const float magic = 12582912;  // 1.5 * 2^23: the sum's low bits are the nearest integer
  ByteRowEnd end{scale, 0, 0};
  for (int64_t i = 0; i < n; ++i) {
    const float scaled = (bad ? 0 : value(i) * inverse) + magic;
    const int32_t q = int32_t(bits_of_float(scaled)) - int32_t(bits_of_float(magic));
    high[i] = int8_t(q >> 7);
    low[i] = int8_t(q & 127);
    end.high_sum += 128 * (q >> 7);
    end.low_sum += 128 * (q & 127);
  }
  memcpy(low + depth, &end, sizeof end);
}

template <class T>
static void norm(const float* x, const float* weight, int64_t n, int64_t depth, float epsilon, void* out) {
  const float scale = inverse_rms(x, n, epsilon);
  if constexpr (sizeof(T) == 1)
    to_bytes(n, depth, out, [&](int64_t i) { return x[i] * scale * weight[i]; });
  else
    for (int64_t i = 0; i < n; i += kLanes) store_elements(static_cast<T*>(out) + i, mul(mul(load(x + i), set1(scale)), load(weight + i)));
}

template <class T>
static void input(const float* x, int64_t n, int64_t depth, void* out) {
  if constexpr (sizeof(T) == 1)
    to_bytes(n, depth, out, [&](int64_t i) { return x[i]; });
  else
    for (int64_t i = 0; i < n; i += kLanes) store_elements(static_cast<T*>(out) + i, load(x + i));
}

static void norm_f32(const float* x, const float* weight, int64_t n, float epsilon, float* out) { norm<float>(x, weight, n, n, epsilon, out); }

static void norm_add(const float* x, const float* weight, int64_t n, float epsilon, float* sum) {
  const F scale = set1(inverse_rms(x, n, epsilon));
  for (int64_t i = 0; i < n; i += kLanes) store(sum + i, add(load(sum + i), mul(mul(load(x + i), scale), load(weight + i))));
}

static void rotate(float* x, const float* cosine, const float* sine, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float re = x[i], im = x[half + i];
    x[i] = re * cosine[i] - im * sine[i];
    x[half + i] = im * cosine[i] + re * sine[i];
  }
}

template <class T>
static void convert(const float* x, int64_t n, float scale, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) store_elements(static_cast<T*>(out) + i, mul(load(x + i), set1(scale)));
}

// s[low, high) <- exp(s - max); the rest of [begin, end) <- 0 (begin and end are multiples of 16). Returns max; *sum: of the results.
static float softmax(float* s, int64_t begin, int64_t low, int64_t high, int64_t end, float* sum) {
  for (int64_t j = begin; j < low; ++j) s[j] = -INFINITY;
  for (int64_t j = high; j < end; ++j) s[j] = -INFINITY;
  F most = set1(-INFINITY), total = set1(0);
  for (int64_t j = begin; j < end; j += kLanes) most = max(load(s + j), most);
  const float max = reduce_max(most);
  for (int64_t j = begin; j < end; j += kLanes) {
    const F p = exp(sub(load(s + j), set1(max)));
    store(s + j, p);
    total = add(total, p);
  }
  *sum = float(reduce_add(total));
  return max;
}

template <class T, int R, int C>
static void weigh_rows(const WeightedValues& w, int64_t row, int64_t column) {
  const int vectors = C * kVectors;
  F acc[R][vectors];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < vectors; ++v) acc[r][v] = load(w.out + (row + r) * w.dim + column + v * kLanes);
  for (int64_t j = w.begin; j < w.end; ++j) {
    F values[vectors];
    const T* value = static_cast<const T*>(w.v) + (w.slots ? w.slots[j] : j) * w.dim + column;
    for (int v = 0; v < vectors; ++v) values[v] = load_elements(value + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const F p = set1(w.p[(row + r) * w.ldp + j]);
      for (int v = 0; v < vectors; ++v) acc[r][v] = fma(p, values[v], acc[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < vectors; ++v) store(w.out + (row + r) * w.dim + column + v * kLanes, acc[r][v]);
}

template <class T, int R, int C>
static void weigh_some(const WeightedValues& w, int64_t row, int64_t rows, int64_t column) {
  if (rows == R) return weigh_rows<T, R, C>(w, row, column);
  if constexpr (R > 1) weigh_some<T, R - 1, C>(w, row, rows, column);
}

// Strips of C panels, up to R rows at a time; R * C sums of a panel each are in flight.
template <class T, int R, int C>
static void weigh_strips(const WeightedValues& w, int64_t begin, int64_t end) {
  for (int64_t column = begin; column < end; column += C * kPanel)
    for (int64_t row = 0; row < w.rows; row += R) weigh_some<T, R, C>(w, row, w.rows - row < R ? w.rows - row : R, column);
}

template <class T>
static void weigh(const WeightedValues& w) {
  const int wide = kLanes == 16 ? 4 : 1, sums = kLanes == 16 ? 24 : kLanes == 8 ? 5 : 1;
  const int64_t strips = w.dim / (wide * kPanel) * wide * kPanel;
  weigh_strips<T, sums / wide, wide>(w, 0, strips);
  weigh_strips<T, sums, 1>(w, strips, w.dim);
}

// A part is [dim] weighted values, the sum of their weights and the maximum they are relative to. out <- all parts together,
// divided by the sum, as elements; the first part is overwritten.
template <class T>
static void merge(const float* parts, int64_t stride, int64_t count, int64_t dim, void* out) {
  float most = -INFINITY, total = 0;
  for (int64_t s = 0; s < count; ++s) {
    const float max = parts[s * stride + dim + 1];
    most = max > most || max != max ? max : most;
  }
  for (int64_t s = 0; s < count; ++s) total += parts[s * stride + dim] * exp1(parts[s * stride + dim + 1] - most);
  const F scale = set1(1 / total);
  for (int64_t i = 0; i < dim; i += kLanes) {
    F sum = set1(0);
    for (int64_t s = 0; s < count; ++s) sum = fma(load(parts + s * stride + i), exp(set1(parts[s * stride + dim + 1] - most)), sum);
    store_elements(static_cast<T*>(out) + i, mul(sum, scale));
  }
}

#if !defined(FD_BF16_GEMM)
#define FD_BF16_GEMM gemm<uint16_t>
#define FD_BYTE_GEMM gemm<int8_t>
#endif
extern const StepKernels f32_kernels, bf16_kernels, i8_kernels;
const StepKernels f32_kernels{Element::f32, gemm<float>, norm<float>, input<float>, norm_f32, norm_add, rotate, convert<float>, softmax, weigh<float>, merge<float>};
const StepKernels bf16_kernels{Element::bf16, FD_BF16_GEMM, norm<uint16_t>, input<uint16_t>, norm_f32, norm_add, rotate, convert<uint16_t>, softmax, weigh<uint16_t>, merge<uint16_t>};
// int8 weights: their products' outputs stay floats until they become the inputs of the next one.
const StepKernels i8_kernels{Element::i8, FD_BYTE_GEMM, norm<int8_t>, input<int8_t>, norm_f32, norm_add, rotate, nullptr, softmax, nullptr, merge<float>};

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
