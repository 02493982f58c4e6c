#define FD_SIMD_NAMESPACE scalar
#include "ops/cpu/simd_scalar.h"
#include "runtime/step_kernels.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

template <class T>
struct Shape;
template <>
struct Shape<float> {
  static const int rows = 2, sums = 2, wide = 0;
};
template <>
struct Shape<uint16_t> {
  static const int rows = 2, sums = 2, wide = 0;
};
template <>
struct Shape<int8_t> {
  static const int rows = 1, sums = 2, wide = 0;
};

struct Pair {
  float even, odd;
};

static inline float load_weights(const float* p) { return *p; }
static inline Pair load_weights(const uint16_t* p) { return {float_of_bf16(p[0]), float_of_bf16(p[1])}; }
static inline float broadcast(const float* p) { return *p; }
static inline Pair broadcast(const uint16_t* p) { return load_weights(p); }
static inline F dot(F sum, float a, float b) { return sum + a * b; }
static inline F dot(F sum, const Pair& a, const Pair& b) { return sum + a.even * b.even + a.odd * b.odd; }
static inline F load_integers(const int32_t* p) { return float(*p); }

// Sums over the depth of weights (128 added) times high and low bytes of the inputs.
template <int R, int P, class Ahead>
static void byte_dots(const PanelGemm& g, int64_t row, int64_t panel, int32_t* high, int32_t* low, Ahead) {
  for (int r = 0; r < R; ++r) {
    const int8_t *a = static_cast<const int8_t*>(g.a) + (row + r) * g.lda, *b = a + g.depth;
    for (int p = 0; p < P; ++p) {
      const uint8_t* w = static_cast<const uint8_t*>(g.w) + (panel + p) * (kPanel * g.depth + kPanel * 4);
      for (int c = 0; c < kPanel; ++c) {
        int32_t sums[2] = {};
        for (int64_t k = 0; k < g.depth; ++k) {
          const int32_t weight = w[(k / 4 * kPanel + c) * 4 + k % 4];
          sums[0] += weight * a[k];
          sums[1] += weight * b[k];
        }
        high[r * kStrip + p * kPanel + c] = sums[0];
        low[r * kStrip + p * kPanel + c] = sums[1];
      }
    }
  }
}

static inline F load_elements(const float* p) { return *p; }
static inline F load_elements(const uint16_t* p) { return float_of_bf16(*p); }
static inline void store_elements(float* p, F a) { *p = a; }
static inline void store_elements(uint16_t* p, F a) { *p = bf16_of_float(a); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#include "runtime/step_kernels_body.h"

#include "ops/kernel.h"

namespace fastdecode {

[[maybe_unused]] static const bool registered = [] {  // for `fastdecode env`; the tables are chosen as a whole
  auto& levels = registry()["transformer_step"];
  levels = {Isa::scalar};
#if defined(__x86_64__)
  levels.insert(levels.end(), {Isa::avx2, Isa::avx512, Isa::amx});
#endif
  return true;
}();

const StepKernels& step_kernels(Element element) {
#define FD_TABLE(ns) (element == Element::f32 ? ns::f32_kernels : element == Element::bf16 ? ns::bf16_kernels : ns::i8_kernels)
#if defined(__x86_64__)
  if (isa() >= Isa::amx) return FD_TABLE(amx);
  if (has_avx512_bf16()) return FD_TABLE(avx512bf16);
  if (isa() >= Isa::avx512) return FD_TABLE(avx512);
  if (isa() == Isa::avx2) return FD_TABLE(avx2);
#endif
  return FD_TABLE(scalar);
#undef FD_TABLE
}

}  // namespace fastdecode
