// The long loops of process_probs, written once for the vector interface of the simd_*.h header that was included before.

#include "ops/cpu/process_probs.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

// Converts n <= kTile elements to x, padded with `padding`.
static void load_tile(const void* logits, int dtype, int64_t begin, int64_t n, float padding, float* x) {
  if (n == kTile && dtype == kFloat32) {
    const float* p = static_cast<const float*>(logits) + begin;
    for (int64_t i = 0; i < kTile; i += kLanes) store(x + i, load(p + i));
  } else if (n == kTile) {
    const uint16_t* p = static_cast<const uint16_t*>(logits) + begin;
    for (int64_t i = 0; i < kTile; i += kLanes) store(x + i, dtype == kBFloat16 ? load_bf16(p + i) : load_f16(p + i));
  } else {
    for (int64_t i = 0; i < n; ++i) x[i] = element(logits, dtype, begin + i);
    for (int64_t i = n; i < kTile; ++i) x[i] = padding;
  }
}

static void store_tile(const float* x, int64_t n, float* out) {
  if (n == kTile)
    for (int64_t i = 0; i < kTile; i += kLanes) store(out + i, load(x + i));
  else
    for (int64_t i = 0; i < n; ++i) out[i] = x[i];
}

static RowMax scale(const void* logits, int dtype, int64_t n, float temperature, float* scores, float* tile_max) {
  const F t = set1(temperature);
  RowMax row = {-__builtin_inff(), false};
  uint32_t bad = 0;
  alignas(64) float x[kTile];
  for (int64_t b = 0; b < n; b += kTile) {
    const int64_t m = n - b < kTile ? n - b : kTile;
    load_tile(logits, dtype, b, m, -__builtin_inff(), x);
    F most = set1(-__builtin_inff());
    for (int64_t i = 0; i < kTile; i += kLanes) {
      const F s = temperature == 1.0f ? load(x + i) : div(load(x + i), t);
      bad |= unordered(s, s);
      most = max(most, s);
      store(x + i, s);
    }
    store_tile(x, m, scores + b);
    const float largest = reduce_max(most);
    tile_max[b / kTile] = largest;
    if (largest > row.value) row.value = largest;
  }
  row.nan = bad != 0;
  return row;
}

static double exponentials(float* values, int64_t n, float row_max) {
  const F m = set1(row_max), lowest = set1(-100.0f);
  double sum = 0;
  alignas(64) float x[kTile];
  for (int64_t b = 0; b < n; b += kTile) {
    const int64_t count = n - b < kTile ? n - b : kTile;
    load_tile(values, kFloat32, b, count, -__builtin_inff(), x);
    F partial = set1(0);
    for (int64_t i = 0; i < kTile; i += kLanes) {
      const F e = exp(max(sub(load(x + i), m), lowest));
      partial = add(partial, e);
      store(x + i, e);
    }
    sum += reduce_add(partial);
    store_tile(x, count, values + b);
  }
  return sum;
}

static void multiply(float* values, int64_t n, float factor) {
  const F f = set1(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(values + i, mul(load(values + i), f));
  for (; i < n; ++i) values[i] *= factor;
}

static int64_t collect(const float* x, int64_t n, int32_t first, float bound, float* values, int32_t* ids) {
  const F least = set1(bound);
  int64_t found = 0, i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const F v = load(x + i);
    const uint32_t bits = ge(v, least);
    if (bits) found += compress(values + found, ids + found, bits, v, int32_t(first + i));
  }
  for (; i < n; ++i)
    if (x[i] >= bound) values[found] = x[i], ids[found++] = int32_t(first + i);
  return found;
}

const ProbsLoops probs_loops = {scale, exponentials, multiply, collect};

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
