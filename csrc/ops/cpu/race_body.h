// The exponential race over a row of any kind, compiled once per instruction set; needs a simd_*.h. A kind of row has weight(v), a double,
// and bounds(v): upper bounds, as floats, of kLanes weights from v on, NaN where the weight is.
#pragma once

#include <cfloat>

#include "fastdecode/race.cuh"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kRaceBlock = 4 * kLanes;  // tokens whose random words one call makes

// Enters the entries 0 ... count - 1 of a row as the tokens first, first + 1, ...; `first` is a multiple of 64.
template <class Row>
static void enter_row(Race& race, const Row& row, int64_t first, int64_t count, const Stream& stream) {
  uint32_t words[kRaceBlock + 16];
  for (int64_t v = 0; v < count; v += kRaceBlock) {
    const int64_t size = count - v < kRaceBlock ? count - v : kRaceBlock;
    uint64_t tokens = size == 64 ? ~uint64_t(0) : (uint64_t(1) << size) - 1;
    double largest = DBL_MAX;
    if (size == kRaceBlock) {
      F most = set1(0);
      uint32_t odd = 0;
      for (int64_t i = 0; i < kRaceBlock; i += kLanes) {
        const F bound = row.bounds(v + i);
        most = max(bound, most);
        odd |= unordered(bound, bound) | gt(bound, set1(FLT_MAX));
      }
      largest = odd ? DBL_MAX : reduce_max(most);
    }
    if (largest == DBL_MAX) {  // the end of the row, or weights that are not finite floats
      largest = 0;
      for (int64_t i = 0; i < size; ++i) {
        const double w = row.weight(v + i);
        if (!(w <= DBL_MAX)) {
          race.valid = 0;
          return;
        }
        largest = w > largest ? w : largest;
      }
    }
    if (!(largest > 0)) continue;
    const double most_word = race.time * largest * (0x1p32 * (1 + 1e-6)) + 1;  // race_may_win needs a word of at most this
    const uint32_t limit = most_word < 0xFFFFFFFFp0 ? uint32_t(most_word) : 0xFFFFFFFF;
    for (tokens &= plane0_at_most(stream, uint32_t((first + v) >> 2), limit, words); tokens; tokens &= tokens - 1) {
      const int i = __builtin_ctzll(tokens);
      const double w = row.weight(v + i);
      if (w > 0) race_enter(race, stream, uint32_t(first + v + i), w, words[i]);
    }
  }
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
