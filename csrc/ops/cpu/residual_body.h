// The passes of residual.h, compiled once per instruction set; needs a simd_*.h. Sums run in eight interleaved lanes, so that
// they are equal in all of them.
#include <cfloat>

#include "fastdecode/race.cuh"
#include "ops/cpu/residual_isa.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kSums = 8;
static const int64_t kRaceBlock = 4 * kLanes;  // tokens whose random words one call makes

static double total(const double* sum) { return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])); }

static inline double weight(const ResidualRow& row, int64_t v) { return row.q ? row.scale * row.p[v] - row.q[v] : row.p[v]; }
static inline double positive_part(double w) { return w <= 0 ? 0 : w; }  // NaN stays

double residual_mass(const ResidualRow& row) {
  double sum[kSums] = {};
  int64_t v = 0;
  if (row.q) {
    for (; v + kSums <= row.vocab; v += kSums)
      for (int64_t i = 0; i < kSums; ++i) sum[i] += positive_part(row.scale * row.p[v + i] - row.q[v + i]);
  }
  for (; v < row.vocab; ++v) sum[v % kSums] += positive_part(weight(row, v));
  return total(sum);
}

static inline double reduced(double weight, double mass, double draft) {
  const double w = weight / mass - draft;
  return weight < 0 ? weight : positive_part(w);
}

void reject_draw(RejectionState& state) {
  double mass[kSums] = {}, draft_mass[kSums] = {};
  int64_t v = 0;
  if (state.q) {
    for (; v + kSums <= state.vocab; v += kSums) {
      for (int64_t i = 0; i < kSums; ++i) {
        const double before = state.weights[v + i], q = state.q[v + i], w = reduced(before, state.mass, q / state.draft_mass);
        state.weights[v + i] = w;
        mass[i] += before < 0 ? 0 : w;
        draft_mass[i] += before < 0 ? 0 : q;
      }
    }
  }
  for (; v < state.vocab; ++v) {
    const double before = state.weights[v], q = state.q ? state.q[v] : 0, w = reduced(before, state.mass, q / state.draft_mass);
    state.weights[v] = w;
    mass[v % kSums] += before < 0 ? 0 : w;
    draft_mass[v % kSums] += before < 0 ? 0 : q;
  }
  state.mass = total(mass);
  state.draft_mass = total(draft_mass);
}

// Upper bounds, as floats, of the weights of kLanes tokens; positive wherever the weight is.
static inline F bounds(const ResidualRow& row, int64_t v) {
  const F p = load(row.p + v);
  if (!row.q) return p;
  const F scaled = add(mul(p, set1(float(row.scale) * (1 + 0x1p-20f))), set1(FLT_MIN));  // the product may underflow
  const F q = load(row.q + v), zero = set1(0);
  return select(ge(zero, p), sub(zero, q), sub(scaled, q));  // NaN stays
}
static inline F bounds(const double* weights, int64_t v) {
  const F w = load_doubles(weights + v);
  return select(gt(w, set1(-FLT_MIN)), add(mul(w, set1(1 + 0x1p-20f)), set1(FLT_MIN)), w);  // a double may be positive and round to 0
}
static inline double weight(const double* weights, int64_t v) { return weights[v]; }

template <class Row>
static int32_t race(const Row& row, int64_t vocab, const Stream& stream) {
  Race race = race_start();
  uint32_t words[kRaceBlock + 16];
  for (int64_t v = 0; v < vocab; v += kRaceBlock) {
    const int64_t count = vocab - v < kRaceBlock ? vocab - v : kRaceBlock;
    uint64_t tokens = count == 64 ? ~uint64_t(0) : (uint64_t(1) << count) - 1;
    double largest = DBL_MAX;
    if (count == kRaceBlock) {
      F most = set1(0);
      uint32_t odd = 0;
      for (int64_t i = 0; i < kRaceBlock; i += kLanes) {
        const F bound = bounds(row, v + i);
        most = max(bound, most);
        odd |= unordered(bound, bound) | gt(bound, set1(FLT_MAX));
      }
      largest = odd ? DBL_MAX : reduce_max(most);
    }
    if (largest == DBL_MAX) {  // the end of the row, or weights that are not finite floats
      largest = 0;
      for (int64_t i = 0; i < count; ++i) {
        const double w = weight(row, v + i);
        if (!(w <= DBL_MAX)) return -1;
        largest = w > largest ? w : largest;
      }
    }
    if (!(largest > 0)) continue;
    const double most_word = race.time * largest * (0x1p32 * (1 + 1e-6)) + 1;  // race_may_win needs a word of at most this
    const uint32_t limit = most_word < 0xFFFFFFFFp0 ? uint32_t(most_word) : 0xFFFFFFFF;
    for (tokens &= plane0_at_most(stream, uint32_t(v >> 2), limit, words); tokens; tokens &= tokens - 1) {
      const int i = __builtin_ctzll(tokens);
      const double w = weight(row, v + i);
      if (w > 0) race_enter(race, stream, uint32_t(v + i), w, words[i]);
    }
  }
  return race_result(race);
}

int32_t race_row(const ResidualRow& row, const Stream& stream) { return race(row, row.vocab, stream); }
int32_t race_weights(const double* weights, int64_t vocab, const Stream& stream) { return race(weights, vocab, stream); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
