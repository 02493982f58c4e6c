#define FD_SIMD_NAMESPACE avx2
#include "ops/cpu/simd_avx2.h"
#include "ops/cpu/transport_cells.h"

namespace fastdecode {
namespace avx2 {

// There is no vector conversion to 64-bit integers: masses are converted one by one.
static void split_block(const float* p, const float* q, int64_t count, Cells& cells, TransportTotals& totals) {
  const __m256 highest = _mm256_set1_ps(kHighestRatio), lowest = _mm256_set1_ps(kLowestRatio), zero = _mm256_setzero_ps(), most = _mm256_set1_ps(float(kMostMass));
  const __m256i split = _mm256_set1_epi32((1 << kSplitBits) - 1), first = _mm256_set1_epi32(kFirstKnotBits - 1);
  __m256 sum = zero;
  uint64_t target = 0;
  for (int64_t v = 0; v < count; v += 8) {
    const __m256 w = _mm256_loadu_ps(p + v), mass = _mm256_loadu_ps(q + v);
    sum = _mm256_add_ps(sum, _mm256_add_ps(w, mass));
    const __m256 fine = _mm256_and_ps(_mm256_and_ps(_mm256_cmp_ps(w, zero, _CMP_GE_OQ), _mm256_cmp_ps(mass, zero, _CMP_GE_OQ)), _mm256_cmp_ps(sum, most, _CMP_LT_OQ));
    if (_mm256_movemask_ps(fine) != 0xFF) {
      totals.sum = NAN;
      return;
    }
    __m256 x = _mm256_min_ps(_mm256_div_ps(w, mass), highest);  // 0 / 0 becomes the second operand
    const __m256 above = _mm256_cmp_ps(_mm256_fnmadd_ps(x, mass, w), zero, _CMP_LT_OQ);
    x = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(x), _mm256_castps_si256(above)));  // -1 where above
    const __m256 low = _mm256_cmp_ps(x, lowest, _CMP_LT_OQ);
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i fine_share = _mm256_cvttps_epi32(_mm256_mul_ps(x, _mm256_set1_ps(float(1 << kSplitBits) * 0x1p16f)));
    alignas(32) int32_t share[8], cell[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(share), _mm256_blendv_epi8(_mm256_and_si256(bits, split), fine_share, _mm256_castps_si256(low)));
    _mm256_store_si256(reinterpret_cast<__m256i*>(cell), _mm256_andnot_si256(_mm256_castps_si256(low), _mm256_sub_epi32(_mm256_srli_epi32(bits, kSplitBits), first)));
    for (int i = 0; i < 8; ++i) {
      Cell& at = cells[i % kCopies][cell[i]];
      at.whole += whole_mass(q[v + i]);
      at.upper += upper_mass(q[v + i], share[i]);
      target += whole_mass(p[v + i]);
    }
  }
  totals.target += int64_t(target);
  totals.sum += reduce_add(sum);
}

}  // namespace avx2
}  // namespace fastdecode

#include "ops/cpu/transport_body.h"
