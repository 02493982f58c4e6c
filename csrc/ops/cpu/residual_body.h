// The passes of residual.h, compiled once per instruction set; needs a simd_*.h. Sums run in eight interleaved lanes, so that
// they are equal in all of them.
#include <cfloat>

#include "ops/cpu/race_body.h"
#include "ops/cpu/residual_isa.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kSums = 8;

static double total(const double* sum) { return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7])); }

static inline double residual_weight(const ResidualRow& row, int64_t v) { return row.q ? row.scale * row.p[v] - row.q[v] : row.p[v]; }
static inline double positive_part(double w) { return w <= 0 ? 0 : w; }  // NaN stays

double residual_mass(const ResidualRow& row) {
  double sum[kSums] = {};
  int64_t v = 0;
  if (row.q) {
    for (; v + kSums <= row.vocab; v += kSums)
      for (int64_t i = 0; i < kSums; ++i) sum[i] += positive_part(row.scale * row.p[v + i] - row.q[v + i]);
  }
  for (; v < row.vocab; ++v) sum[v % kSums] += positive_part(residual_weight(row, v));
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

// Rows of race_body.h.
struct ResidualWeights {
  const ResidualRow& row;

  double weight(int64_t v) const { return residual_weight(row, v); }
  F bounds(int64_t v) const {
    const F p = load(row.p + v);
    if (!row.q) return p;
    const F scaled = add(mul(p, set1(float(row.scale) * (1 + 0x1p-20f))), set1(FLT_MIN));  // the product may underflow
    const F q = load(row.q + v), zero = set1(0);
    return select(ge(zero, p), sub(zero, q), sub(scaled, q));  // NaN stays
  }
};

struct StoredWeights {
  const double* weights;

  double weight(int64_t v) const { return weights[v]; }
  F bounds(int64_t v) const {
    const F w = load_doubles(weights + v);
    return select(gt(w, set1(-FLT_MIN)), add(mul(w, set1(1 + 0x1p-20f)), set1(FLT_MIN)), w);  // a double may be positive and round to 0
  }
};

template <class Row>
static int32_t race(const Row& row, int64_t vocab, const Stream& stream) {
  Race race = race_start();
  enter_row(race, row, 0, vocab, stream);
  return race_result(race);
}

int32_t race_row(const ResidualRow& row, const Stream& stream) { return race(ResidualWeights{row}, row.vocab, stream); }
int32_t race_weights(const double* weights, int64_t vocab, const Stream& stream) { return race(StoredWeights{weights}, vocab, stream); }

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
