// The vocabulary passes of transport.h, compiled once per instruction set; needs a simd_*.h, and transport_cells.h with split_block,
// which adds a block of tokens (a multiple of kLawPad) to the cells, the target's total and the sum.

#include <cfloat>
#include <cstring>

#include "fastdecode/transport_knots.cuh"
#include "ops/cpu/law_block.h"
#include "ops/cpu/race_body.h"
#include "ops/cpu/transport_cells.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

TransportTotals transport_histogram(const Law& p, const Law& q, int64_t vocab, int64_t* mass) {
  alignas(64) Cell cells[kCopies][kKnots];
  memset(cells, 0, sizeof cells);
  TransportTotals totals{0, 0, 0};
  LawStage p_stage, q_stage;
  for (int64_t begin = 0; begin < vocab; begin += kLawBlock) {
    const int64_t count = vocab - begin < kLawBlock ? vocab - begin : kLawBlock;
    split_block(law_block(p, begin, count, p_stage), law_block(q, begin, count, q_stage), (count + kLawPad - 1) / kLawPad * kLawPad, cells, totals);
    if (!(totals.sum < kMostMass)) return totals;
  }
  uint64_t from_below = 0;
  for (int32_t knot = 0; knot < kKnots; ++knot) {
    uint64_t whole = 0, upper = 0;
    for (int copy = 0; copy < kCopies; ++copy) whole += cells[copy][knot].whole, upper += cells[copy][knot].upper;
    mass[knot] = int64_t(whole - upper + from_below);
    from_below = upper;
    totals.draft += int64_t(whole);
  }
  return totals;
}

// A Group of transport_knots.cuh: one thread, eight knots at a time.
struct OneThread {
  static const int kWide = 8;
  void sync() const {}
  template <class F>
  void each(const F& f) const {
    for (int32_t k = 0; k < kKnots; k += kWide) f(k);
  }
  template <class F>
  double least(const F& f) const {
    double result = __builtin_inf(), value[kWide];
    for (int32_t k = 0; k < kKnots; k += kWide) {
      f(k, value);
      for (int i = 0; i < kWide; ++i) result = value[i] < result ? value[i] : result;
    }
    return result;
  }
  template <class F>
  int32_t first(const F& f) const {
    int32_t k = 0;
    while (k < kKnots && !f(k)) ++k;
    return k;
  }
  void stretch_sum(double* values) const {
    for (int32_t i = 1; i < kStretch; ++i)
      for (int32_t s = 0; s < kStretches; ++s) values[s * kStretch + i] += values[s * kStretch + i - 1];
    double before = 0;
    for (int32_t s = 0; s < kStretches; ++s) {
      const double own = values[s * kStretch + kStretch - 1];
      for (int32_t i = 0; i < kStretch; ++i) values[s * kStretch + i] += before;
      before += own;
    }
  }
};

void transport_knots(TransportPlan& plan, const int64_t* mass, const TransportTotals& totals, int32_t draws, double weight) {
  double ratios[kKnots];
  int64_t sum = 0;
  for (int32_t knot = 0; knot < kKnots; ++knot) {
    sum += mass[knot];
    ratios[knot] = knot_ratio(knot);
    plan.right[knot] = double(sum) / double(totals.draft);
    plan.base[knot] = double(mass[knot]) / double(totals.draft);
  }
  plan_from_masses(plan, uint32_t(draws), weight * double(totals.draft) / double(totals.target), ratios, OneThread());
}

// What the drafts leave of a block of tokens, as a row of race_body.h.
struct Remainder {
  const float *p, *q;
  const TransportResidual& residual;
  F low;

  Remainder(const float* p, const float* q, const TransportResidual& r) : p(p), q(q), residual(r), low(set1(float(r.low) * (-1 + 0x1p-20f))) {}

  double weight(int64_t v) const { return residual_weight(residual, p[v], q[v]); }
  // A token keeps at least the smaller of its ratio, rounded to the grid, and the knot below the cap; and it leaves at most all of p.
  F bounds(int64_t v) const {
    const F w = load(p + v), mass = load(q + v);
    const F above = fma(mass, low, fma(w, set1(1 + 0x1p-20f), set1(FLT_MIN))), rounding = fma(w, set1(0x1p-21f), fma(mass, set1(0x1p-33f), set1(FLT_MIN)));
    const F most = max(above, rounding);
    return select(gt(w, most), most, w);
  }
};

int32_t transport_race(const Law& p, const Law& q, int64_t vocab, const TransportResidual& residual, const Stream& stream) {
  LawStage p_stage, q_stage;
  Race race = race_start();
  for (int64_t begin = 0; begin < vocab && race.valid; begin += kLawBlock) {
    const int64_t count = vocab - begin < kLawBlock ? vocab - begin : kLawBlock;
    enter_row(race, Remainder(law_block(p, begin, count, p_stage), law_block(q, begin, count, q_stage), residual), begin, count, stream);
  }
  return race_result(race);
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
