#define FD_SIMD_NAMESPACE scalar
#include "ops/cpu/simd_scalar.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int kRows = 2, kPanels = 2;

struct Pair {
  float even, odd;
};

static inline float load_weights(const float* p) { return *p; }
static inline Pair load_weights(const uint16_t* p) { return {float_of_bf16(p[0]), float_of_bf16(p[1])}; }
static inline float broadcast(const float* p) { return *p; }
static inline Pair broadcast(const uint16_t* p) { return load_weights(p); }
static inline F dot(F sum, float a, float b) { return sum + a * b; }
static inline F dot(F sum, const Pair& a, const Pair& b) { return sum + a.even * b.even + a.odd * b.odd; }
static inline F load_elements(const float* p) { return *p; }
static inline F load_elements(const uint16_t* p) { return float_of_bf16(*p); }
static inline void store_elements(float* p, F a) { *p = a; }
static inline void store_elements(uint16_t* p, F a) { *p = bf16_of_float(a); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#include "runtime/step_kernels_body.h"

#include "runtime/cpu.h"

namespace fastdecode {

const StepKernels& step_kernels(Element element) {
  const bool bf16 = element == Element::bf16;
#if defined(__x86_64__)
  if (bf16 && has_avx512_bf16()) return avx512bf16::bf16_kernels;
  if (isa() >= Isa::avx512) return bf16 ? avx512::bf16_kernels : avx512::f32_kernels;
  if (isa() == Isa::avx2) return bf16 ? avx2::bf16_kernels : avx2::f32_kernels;
#endif
  return bf16 ? scalar::bf16_kernels : scalar::f32_kernels;
}

}  // namespace fastdecode
