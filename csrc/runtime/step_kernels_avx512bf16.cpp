#define FD_SIMD_NAMESPACE avx512bf16
#include "runtime/step_bytes_vnni.h"
#include "runtime/step_elements_avx512.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int kRows = 6, kPanels = 4;  // 24 sums, 4 weights, 1 input

struct Pairs {
  __m512bh v;
};

static inline Pairs load_weights(const uint16_t* p) { return {(__m512bh)_mm512_loadu_si512(p)}; }
static inline Pairs broadcast(const uint16_t* p) {
  int pair;
  memcpy(&pair, p, sizeof pair);
  return {(__m512bh)_mm512_set1_epi32(pair)};
}
static inline F dot(F sum, const Pairs& a, const Pairs& b) { return _mm512_dpbf16_ps(sum, a.v, b.v); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode

#include "runtime/step_kernels_body.h"
