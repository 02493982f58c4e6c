#define FD_SIMD_NAMESPACE avx512
#include "ops/cpu/simd_avx512.h"
#include "ops/cpu/transport_cells.h"

namespace fastdecode {
namespace avx512 {

static inline __m512i fixed(__m512d x, double unit) { return _mm512_cvttpd_epi64(_mm512_mul_pd(x, _mm512_set1_pd(unit))); }
static inline __m512d doubles(const float* x) { return _mm512_cvtps_pd(_mm256_loadu_ps(x)); }

// p / q rounded down: what token_ratio comes to where q > 0.
static inline __m512 ratios(const float* p, const float* q) {
  return _mm512_div_round_ps(_mm512_loadu_ps(p), _mm512_loadu_ps(q), _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}

// Of all lanes, which wrap where rows are far from laws: the intrinsic adds signed numbers, which must not.
static inline uint64_t sum_of(__m512i v) {
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, v);
  uint64_t sum = 0;
  for (uint64_t lane : lanes) sum += lane;
  return sum;
}

static_assert(kCopies == 2 && sizeof(Cell) == 16, "offsets are computed for these");

// Sixteen tokens on their way to their cells.
struct Sixteen {
  alignas(64) __m128i masses[16];   // whole and upper part; of every eight tokens first 0 2 4 6, then 1 3 5 7
  alignas(64) uint32_t offset[16];  // of the cell, in bytes

  void put(__m512i cell, __m512i whole0, __m512i upper0, __m512i whole1, __m512i upper1) {
    _mm512_store_si512(offset, _mm512_slli_epi32(cell, 4));
    _mm512_store_si512(masses, _mm512_unpacklo_epi64(whole0, upper0));
    _mm512_store_si512(masses + 4, _mm512_unpackhi_epi64(whole0, upper0));
    _mm512_store_si512(masses + 8, _mm512_unpacklo_epi64(whole1, upper1));
    _mm512_store_si512(masses + 12, _mm512_unpackhi_epi64(whole1, upper1));
  }
  void add_to(Cells& cells) const {
    for (int i = 0; i < 16; ++i) {
      __m128i* at = reinterpret_cast<__m128i*>(reinterpret_cast<char*>(cells[i % kCopies]) + offset[i]);
      _mm_store_si128(at, _mm_add_epi64(_mm_load_si128(at), masses[i / 8 * 8 + i % 8 / 2 + i % 2 * 4]));
    }
  }
};

// Entries that belong to no law give any result but touch no other memory. What takes long is begun early, because few vectors are in
// flight at a time: a vector's division while the one before it is split, its additions while the one behind it is.
static void split_block(const float* p, const float* q, int64_t count, Cells& cells, TransportTotals& totals) {
  constexpr double part = kMassUnit / (1 << kSplitBits);
  static const int64_t kAhead = 512;  // tokens
  const __m512 highest = _mm512_set1_ps(kHighestRatio), lowest = _mm512_set1_ps(kLowestRatio);
  const __m512i split = _mm512_set1_epi32((1 << kSplitBits) - 1), first = _mm512_set1_epi32(kFirstKnotBits - 1);
  __m512i target = _mm512_setzero_si512(), whole_idle = target, upper_idle = target, any = target;
  __m512 sum = _mm512_setzero_ps();
  Sixteen waiting[2] = {};
  int current = 0;
  __m512 ratio = ratios(p, q);
  for (int64_t v = 0; v < count; v += 16) {
    const int64_t next = v + 16 < count ? v + 16 : v;
    _mm_prefetch(reinterpret_cast<const char*>(p + v + kAhead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(q + v + kAhead), _MM_HINT_T0);
    const __m512i w = _mm512_loadu_si512(p + v), mass = _mm512_loadu_si512(q + v);
    sum = _mm512_add_ps(sum, _mm512_add_ps(_mm512_castsi512_ps(w), _mm512_castsi512_ps(mass)));
    const __m512 x = _mm512_min_ps(ratio, highest);  // 0 / 0 becomes the second operand
    ratio = ratios(p + next, q + next);
    any = _mm512_ternarylogic_epi32(any, w, mass, 0xFE);  // bits that are set anywhere
    const __mmask16 low = _mm512_cmp_ps_mask(x, lowest, _CMP_NGE_UQ);
    const __m512i bits = _mm512_castps_si512(x), fine_share = _mm512_cvttps_epi32(_mm512_mul_ps(x, _mm512_set1_ps(float(1 << kSplitBits) * 0x1p16f)));
    const __m512i share = _mm512_mask_and_epi32(fine_share, __mmask16(~low), bits, split);
    const __m512d mass0 = _mm512_mul_pd(doubles(q + v), _mm512_set1_pd(part)), mass1 = _mm512_mul_pd(doubles(q + v + 8), _mm512_set1_pd(part));
    const __m512i whole0 = fixed(mass0, 1 << kSplitBits), whole1 = fixed(mass1, 1 << kSplitBits);
    const __m512i upper0 = _mm512_cvttpd_epi64(_mm512_mul_pd(mass0, _mm512_cvtepi32_pd(_mm512_castsi512_si256(share))));
    const __m512i upper1 = _mm512_cvttpd_epi64(_mm512_mul_pd(mass1, _mm512_cvtepi32_pd(_mm512_extracti32x8_epi32(share, 1))));
    target = _mm512_add_epi64(target, _mm512_add_epi64(fixed(doubles(p + v), kMassUnit), fixed(doubles(p + v + 8), kMassUnit)));
    if (__mmask16(low | _mm512_testn_epi32_mask(mass, mass)) == 0xFFFF) {  // common where laws were truncated
      whole_idle = _mm512_add_epi64(whole_idle, _mm512_add_epi64(whole0, whole1));
      upper_idle = _mm512_add_epi64(upper_idle, _mm512_add_epi64(upper0, upper1));
      continue;
    }
    waiting[current].put(_mm512_maskz_sub_epi32(__mmask16(~low), _mm512_srli_epi32(bits, kSplitBits), first), whole0, upper0, whole1, upper1);
    current ^= 1;
    waiting[current].add_to(cells);
  }
  waiting[current ^ 1].add_to(cells);
  totals.target = int64_t(uint64_t(totals.target) + sum_of(target));
  cells[0][0].whole += sum_of(whole_idle);  // of ratios below the grid; those without draft mass add nothing
  cells[0][0].upper += sum_of(upper_idle);
  totals.sum += reduce_add(sum);
  if (_mm512_movepi32_mask(any))  // some entry is negative, or a negative zero, which is fine
    for (int64_t i = 0; i < count; ++i)
      if (!(p[i] >= 0 && q[i] >= 0)) totals.sum = NAN;
}

}  // namespace avx512
}  // namespace fastdecode

#include "ops/cpu/transport_body.h"
