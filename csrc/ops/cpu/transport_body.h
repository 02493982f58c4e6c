// The vocabulary passes of transport.h, compiled once per instruction set; needs a simd_*.h, and transport_cells.h with split_blocks.

#include <cfloat>
#include <cstring>

#include "fastdecode/race.cuh"
#include "fastdecode/transport_knots.cuh"
#include "ops/cpu/transport_cells.h"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

TransportTotals transport_histogram(const float* p, const float* q, int64_t vocab, int64_t* mass) {
  alignas(64) Cell cells[kCopies][kKnots];
  memset(cells, 0, sizeof cells);
  TransportTotals totals{0, 0, true};
  for (int64_t v = split_blocks(p, q, vocab, cells, totals); v < vocab; ++v) {
    totals.valid &= p[v] >= 0 && p[v] <= FLT_MAX && q[v] >= 0 && q[v] <= FLT_MAX;
    if (!totals.valid) return totals;
    const TokenSplit split = split_ratio(token_ratio(p[v], q[v]));
    Cell& cell = cells[v % kCopies][split.cell];
    cell.whole += whole_mass(q[v]);
    cell.upper += upper_mass(q[v], split.share);
    totals.target += whole_mass(p[v]);
  }
  int64_t from_below = 0;
  for (int32_t knot = 0; knot < kKnots; ++knot) {
    int64_t whole = 0, upper = 0;
    for (int copy = 0; copy < kCopies; ++copy) whole += cells[copy][knot].whole, upper += cells[copy][knot].upper;
    mass[knot] = whole - upper + from_below;
    from_below = upper;
    totals.draft += whole;
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

// Upper bounds, as floats, of the residual weights of kLanes tokens; positive wherever the weight is.
struct ResidualBounds {
  F whole, share, low, flat, cap;
  explicit ResidualBounds(const TransportResidual& r)
      : whole(set1(0x1p-21f)), share(set1(0x1p-33f)), low(set1(float(r.low) * (1 - 0x1p-20f))), flat(set1(float(r.flat) * (1 + 0x1p-20f))), cap(set1(r.cap < FLT_MAX ? float(r.cap) * (1 - 0x1p-20f) : FLT_MAX)) {}
  F operator()(const float* p, const float* q) const {
    const F w = load(p), mass = load(q), zero = set1(0), more = mul(w, set1(1 + 0x1p-20f));
    const F tiny = add(fma(mass, share, mul(w, whole)), set1(FLT_MIN));
    const F bent = mul(flat, sub(more, mul(mass, low))), capped = sub(more, mul(mass, cap));
    return select(gt(mass, zero), max(tiny, max(bent, capped)), w);
  }
};

int32_t transport_race(const float* p, const float* q, int64_t vocab, const TransportResidual& residual, const Stream& stream) {
  static const int64_t kBlock = 4 * kLanes;
  const ResidualBounds bounds(residual);
  Race race = race_start();
  uint32_t words[kBlock + 16];
  for (int64_t v = 0; v < vocab; v += kBlock) {
    const int64_t count = vocab - v < kBlock ? vocab - v : kBlock;
    uint64_t tokens = count == 64 ? ~uint64_t(0) : (uint64_t(1) << count) - 1;
    double largest = 0;
    if (count == kBlock) {
      F most = set1(0);
      for (int64_t i = 0; i < kBlock; i += kLanes) most = max(bounds(p + v + i, q + v + i), most);
      largest = reduce_max(most);
    } else {
      for (int64_t i = 0; i < count; ++i) largest = p[v + i] > largest ? p[v + i] : largest;
    }
    if (!(largest > 0)) continue;
    const double most_word = race.time * largest * (0x1p32 * (1 + 1e-6)) + 1;  // race_may_win needs a word of at most this
    const uint32_t limit = most_word < 0xFFFFFFFFp0 ? uint32_t(most_word) : 0xFFFFFFFF;
    for (tokens &= plane0_at_most(stream, uint32_t(v >> 2), limit, words); tokens; tokens &= tokens - 1) {
      const int i = __builtin_ctzll(tokens);
      const double w = residual_weight(residual, p[v + i], q[v + i]);
      if (w > 0) race_enter(race, stream, uint32_t(v + i), w, words[i]);
    }
  }
  return race_result(race);
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
