#define FD_SIMD_NAMESPACE avx512
#include "ops/cpu/simd_avx512.h"
#include "ops/cpu/transport_cells.h"

namespace fastdecode {
namespace avx512 {

static inline __m512i fixed(__m512d x, double unit) { return _mm512_cvttpd_epi64(_mm512_mul_pd(x, _mm512_set1_pd(unit))); }
static inline __m512d low_half(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
static inline __m512d high_half(__m512 x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }

static_assert(kCopies == 2 && sizeof(Cell) == 16, "offsets are computed for these");

// Tokens on their way to their cells. They are laid down first and added up later, when the stores they come from have long
// retired: loads of parts of a wide store would wait for it.
struct Waiting {
  static const int kTokens = 256;
  alignas(64) __m128i masses[kTokens];  // whole and upper part; of every eight tokens first 0 2 4 6, then 1 3 5 7
  alignas(64) uint32_t offset[kTokens];  // of the cell, in bytes
  int count = 0;

  void put(__m512i cell, __m512i whole0, __m512i upper0, __m512i whole1, __m512i upper1) {
    const __m512i copy = _mm512_set1_epi64(int64_t(sizeof(Cell) * kKnots) << 32);  // of the odd tokens
    _mm512_store_si512(offset + count, _mm512_add_epi32(_mm512_slli_epi32(cell, 4), copy));
    _mm512_store_si512(masses + count, _mm512_unpacklo_epi64(whole0, upper0));
    _mm512_store_si512(masses + count + 4, _mm512_unpackhi_epi64(whole0, upper0));
    _mm512_store_si512(masses + count + 8, _mm512_unpacklo_epi64(whole1, upper1));
    _mm512_store_si512(masses + count + 12, _mm512_unpackhi_epi64(whole1, upper1));
    count += 16;
  }
  void add_to(Cells& cells) {
    char* base = reinterpret_cast<char*>(&cells[0][0]);
    for (int eight = 0; eight < count; eight += 8)
      for (int i = 0; i < 8; ++i) {
        __m128i* at = reinterpret_cast<__m128i*>(base + offset[eight + i]);
        _mm_store_si128(at, _mm_add_epi64(_mm_load_si128(at), masses[eight + i / 2 + i % 2 * 4]));
      }
    count = 0;
  }
};

// Entries that belong to no law give any result but touch no other memory.
static void split_block(const float* p, const float* q, int64_t count, Cells& cells, TransportTotals& totals) {
  constexpr double part = kMassUnit / (1 << kSplitBits);
  const __m512 highest = _mm512_set1_ps(kHighestRatio), lowest = _mm512_set1_ps(kLowestRatio), zero = _mm512_setzero_ps();
  const __m512i one = _mm512_set1_epi32(1), split = _mm512_set1_epi32((1 << kSplitBits) - 1), first = _mm512_set1_epi32(kFirstKnotBits - 1), last = _mm512_set1_epi32(kUsedKnots - 1);
  __m512i target = _mm512_setzero_si512(), whole_low = target, upper_low = target, largest = target;
  Waiting waiting;
  for (int64_t v = 0; v < count; v += 16) {
    const __m512 w = _mm512_loadu_ps(p + v), mass = _mm512_loadu_ps(q + v);
    largest = _mm512_max_epu32(largest, _mm512_max_epu32(_mm512_castps_si512(w), _mm512_castps_si512(mass)));
    __m512 x = _mm512_min_ps(_mm512_div_ps(w, mass), highest);  // 0 / 0 becomes the second operand
    const __mmask16 above = _mm512_cmp_ps_mask(_mm512_fnmadd_ps(x, mass, w), zero, _CMP_LT_OQ);
    x = _mm512_castsi512_ps(_mm512_mask_sub_epi32(_mm512_castps_si512(x), above, _mm512_castps_si512(x), one));
    const __mmask16 low = _mm512_cmp_ps_mask(x, lowest, _CMP_LT_OQ);
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i fine_share = _mm512_cvttps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(float(1 << kSplitBits) * 0x1p16f)));
    const __m512i share = _mm512_mask_mov_epi32(_mm512_and_si512(bits, split), low, fine_share);
    const __m512d mass0 = _mm512_mul_pd(low_half(mass), _mm512_set1_pd(part)), mass1 = _mm512_mul_pd(high_half(mass), _mm512_set1_pd(part));
    const __m512i whole0 = fixed(mass0, 1 << kSplitBits), whole1 = fixed(mass1, 1 << kSplitBits);
    const __m512i upper0 = _mm512_cvttpd_epi64(_mm512_mul_pd(mass0, _mm512_cvtepi32_pd(_mm512_castsi512_si256(share))));
    const __m512i upper1 = _mm512_cvttpd_epi64(_mm512_mul_pd(mass1, _mm512_cvtepi32_pd(_mm512_extracti32x8_epi32(share, 1))));
    target = _mm512_add_epi64(target, _mm512_add_epi64(fixed(low_half(w), kMassUnit), fixed(high_half(w), kMassUnit)));
    if (low == 0xFFFF) {  // common where p was truncated
      whole_low = _mm512_add_epi64(whole_low, _mm512_add_epi64(whole0, whole1));
      upper_low = _mm512_add_epi64(upper_low, _mm512_add_epi64(upper0, upper1));
      continue;
    }
    if (waiting.count == Waiting::kTokens) waiting.add_to(cells);
    waiting.put(_mm512_min_epu32(last, _mm512_maskz_sub_epi32(__mmask16(~low), _mm512_srli_epi32(bits, kSplitBits), first)), whole0, upper0, whole1, upper1);
  }
  waiting.add_to(cells);
  totals.target += _mm512_reduce_add_epi64(target);
  cells[0][0].whole += _mm512_reduce_add_epi64(whole_low);
  cells[0][0].upper += _mm512_reduce_add_epi64(upper_low);
  if (_mm512_reduce_max_epu32(largest) > 0x7F7FFFFFu)  // negative, NaN or infinite; or a negative zero, which is fine
    for (int64_t i = 0; i < count; ++i) totals.valid &= p[i] >= 0 && p[i] <= 3.402823466e38f && q[i] >= 0 && q[i] <= 3.402823466e38f;
}

}  // namespace avx512
}  // namespace fastdecode

#include "ops/cpu/transport_body.h"
