// Bodies of step_kernels.h, compiled once per instruction set; what they need of it stands in step_products_body.h.
#include <cfloat>
#include <cmath>

#include "runtime/step_kernels.h"
#include "runtime/step_products_body.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static inline float first_lane(F a) {
  float lane[kLanes];
  store(lane, a);
  return lane[0];
}

static inline float power_of_two(float a) { return first_lane(exp2(set1(a))); }

static float inverse_rms(const float* x, int64_t n, float epsilon) {
  F sum = set1(0);
  for (int64_t i = 0; i < n; i += kLanes) sum = fma(load(x + i), load(x + i), sum);  // behind n: zeros
  return 1 / std::sqrt(float(reduce_add(sum)) / float(n) + epsilon);
}

// The vectors value(0), value(kLanes), ... up to n elements as a row of bytes; a value that is not finite makes the whole product NaN.
template <class Value>
static void to_bytes(int64_t n, int64_t depth, void* out, const Value& value) {
  constexpr int64_t kBlock = 64;
  int8_t *high = static_cast<int8_t*>(out), *low = high + depth;
  F most = set1(0);
  uint32_t nan = 0;
  for (int64_t i = 0; i < n; i += kLanes) {
    const F a = value(i);
    nan |= unordered(a, a);
    most = max(max(a, sub(set1(0), a)), most);
  }
  const float largest = reduce_max(most);
  const bool bad = nan || largest > FLT_MAX;
  const float scale = bad ? NAN : largest / 16383, inverse = bad || largest == 0 ? 0 : 16383 / largest;
  const float magic = 12582912;  // 1.5 * 2^23: the sum's low bits are the nearest integer
  ByteRowEnd end{scale, 0, 0};
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t count = n - begin < kBlock ? n - begin : kBlock;
    float shifted[kBlock];
    for (int64_t i = 0; i < count; i += kLanes) store(shifted + i, bad ? set1(magic) : add(mul(value(begin + i), set1(inverse)), set1(magic)));
    for (int64_t i = 0; i < count; ++i) {
      const int32_t q = int32_t(bits_of_float(shifted[i])) - int32_t(bits_of_float(magic)), h = q >> 7, l = q & 127;
      high[begin + i] = int8_t(h);
      low[begin + i] = int8_t(l);
      end.high_sum += 128 * h;
      end.low_sum += 128 * l;
    }
  }
  memcpy(low + depth, &end, sizeof end);
}

template <class T>
static void norm(const float* x, const float* weight, int64_t n, int64_t depth, float epsilon, void* out) {
  const float scale = inverse_rms(x, n, epsilon);
  if constexpr (sizeof(T) == 1)
    to_bytes(n, depth, out, [&](int64_t i) { return mul(mul(load(x + i), set1(scale)), load(weight + i)); });
  else
    for (int64_t i = 0; i < n; i += kLanes) store_elements(static_cast<T*>(out) + i, mul(mul(load(x + i), set1(scale)), load(weight + i)));
}

template <class T>
static void input(const float* x, int64_t n, int64_t depth, void* out) {
  if constexpr (sizeof(T) == 1)
    to_bytes(n, depth, out, [&](int64_t i) { return load(x + i); });
  else
    for (int64_t i = 0; i < n; i += kLanes) store_elements(static_cast<T*>(out) + i, load(x + i));
}

static void norm_f32(const float* x, const float* weight, int64_t n, float epsilon, float* out) { norm<float>(x, weight, n, n, epsilon, out); }

static void norm_add(const float* x, const float* weight, int64_t n, float epsilon, float* sum) {
  const F scale = set1(inverse_rms(x, n, epsilon));
  for (int64_t i = 0; i < n; i += kLanes) store(sum + i, add(load(sum + i), mul(mul(load(x + i), scale), load(weight + i))));
}

static void rotate(float* x, const float* cosine, const float* sine, int64_t half) {
  int64_t i = 0;
  for (; i + kLanes <= half; i += kLanes) {
    const F re = load(x + i), im = load(x + half + i), c = load(cosine + i), s = load(sine + i);
    store(x + i, sub(mul(re, c), mul(im, s)));
    store(x + half + i, add(mul(im, c), mul(re, s)));
  }
  for (; i < half; ++i) {
    const float re = x[i], im = x[half + i];
    x[i] = re * cosine[i] - im * sine[i];
    x[half + i] = im * cosine[i] + re * sine[i];
  }
}

template <class T>
static void convert(const float* x, int64_t n, float scale, void* out) {
  for (int64_t i = 0; i < n; i += kLanes) store_elements(static_cast<T*>(out) + i, mul(load(x + i), set1(scale)));
}

template <class W>
static inline F weight_of(F a) {
#if defined(FD_BF16_WEIGHTS)
  if constexpr (sizeof(W) == 2) return exp2_near(a);
#endif
  return exp2(a);
}

// s[low, high) <- 2^(s - max), as elements W from the start of s on; the rest of [begin, end) <- 0 (begin and end are multiples of 16).
// Returns max; *sum: of the results before they are rounded.
template <class W>
static float softmax(float* s, int64_t begin, int64_t low, int64_t high, int64_t end, float* sum) {
  const F none = set1(-INFINITY);
  int64_t j = begin;
  for (; j + kLanes <= low; j += kLanes) store(s + j, none);
  if (j < low) store(s + j, select((1u << (low - j)) - 1, none, load(s + j)));
  j = high / kLanes * kLanes;
  if (j < high) store(s + j, select((1u << (high - j)) - 1, load(s + j), none)), j += kLanes;
  for (; j < end; j += kLanes) store(s + j, none);
  F most = none, other = none, total = set1(0);
  for (j = begin; j + 2 * kLanes <= end; j += 2 * kLanes) {
    most = max(load(s + j), most);
    other = max(load(s + j + kLanes), other);
  }
  if (j < end) most = max(load(s + j), most);
  const float max = reduce_max(FD_SIMD_NAMESPACE::max(other, most));
  for (j = begin; j < end; j += kLanes) {
    const F p = weight_of<W>(sub(load(s + j), set1(max)));
    store_elements(reinterpret_cast<W*>(s) + j, p);  // behind what is still to be read
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
    for (int v = 0; v < vectors; ++v) acc[r][v] = load(w.out + (row + r) * w.ldo + column + v * kLanes);
  for (int64_t j = w.begin; j < w.end; ++j) {
    F values[vectors];
    const T* value = static_cast<const T*>(w.v) + (w.slots ? w.slots[j] : j) * w.dim + column;
    for (int v = 0; v < vectors; ++v) values[v] = load_elements(value + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const F p = set1(reinterpret_cast<const float*>(static_cast<const char*>(w.p) + (row + r) * w.ldp)[j]);
      for (int v = 0; v < vectors; ++v) acc[r][v] = fma(p, values[v], acc[r][v]);
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < vectors; ++v) store(w.out + (row + r) * w.ldo + column + v * kLanes, acc[r][v]);
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
// divided by the sum, as elements. The maxima become the parts' own weights.
template <class T>
static void merge(float* parts, int64_t stride, int64_t count, int64_t dim, void* out) {
  if (count == 1) {  // its weight is 2^0 = 1
    const F scale = set1(1 / parts[dim]);
    for (int64_t i = 0; i < dim; i += kLanes) store_elements(static_cast<T*>(out) + i, mul(load(parts + i), scale));
    return;
  }
  float most = -INFINITY, total = 0;
  for (int64_t s = 0; s < count; ++s) {
    const float max = parts[s * stride + dim + 1];
    most = max > most || max != max ? max : most;
  }
  for (int64_t s = 0; s < count; ++s) {
    float* part = parts + s * stride;
    part[dim + 1] = power_of_two(part[dim + 1] - most);
    total += part[dim] * part[dim + 1];
  }
  const F scale = set1(1 / total);
  for (int64_t i = 0; i < dim; i += kLanes) {
    F sum = set1(0);
    for (int64_t s = 0; s < count; ++s) sum = fma(load(parts + s * stride + i), set1(parts[s * stride + dim + 1]), sum);
    store_elements(static_cast<T*>(out) + i, mul(sum, scale));
  }
}

#if !defined(FD_BF16_GEMM)
#define FD_BF16_GEMM gemm<uint16_t>
#define FD_BYTE_GEMM gemm<int8_t>
#endif
#if !defined(FD_BF16_WEIGHTS)
#define FD_BF16_WEIGHTS softmax<float>, 4, weigh<uint16_t>, 1
#endif
extern const StepKernels f32_kernels, bf16_kernels, i8_kernels;
const StepKernels f32_kernels{Element::f32, gemm<float>, norm<float>, input<float>, norm_f32, norm_add, rotate, convert<float>, softmax<float>, 4, weigh<float>, 1, merge<float>};
const StepKernels bf16_kernels{Element::bf16, FD_BF16_GEMM, norm<uint16_t>, input<uint16_t>, norm_f32, norm_add, rotate, convert<uint16_t>, FD_BF16_WEIGHTS, merge<uint16_t>};
// int8 weights: their products' outputs stay floats until they become the inputs of the next one.
const StepKernels i8_kernels{Element::i8, FD_BYTE_GEMM, norm<int8_t>, input<int8_t>, norm_f32, norm_add, rotate, nullptr, nullptr, 0, nullptr, 0, merge<float>};

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
