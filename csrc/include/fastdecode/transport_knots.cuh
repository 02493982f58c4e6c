// From the masses of the knots to the plan, by any group of threads: a Group shares out knots and has barriers between steps.
//
// A Group has kWide (knots that one call handles), sync(), each(f): f(first) for every kWide knots; least(f), first(f): the smallest f(first,
// lane) and the smallest knot for which it holds; stretch_sum(values): running sums within each stretch and then over stretches.
#pragma once

#include "fastdecode/transport_grid.cuh"

#if defined(__CUDACC__)
#define FD_GROUP __device__ static inline
#else
#define FD_GROUP static inline
#endif

namespace fastdecode {

constexpr int32_t kTransportArrays = 5;

FD_HD static inline TransportPlan transport_arrays(double* arrays) {
  return {0, 0, 2, arrays, arrays + kKnots, arrays + 2 * kKnots, arrays + 3 * kKnots, arrays + 4 * kKnots};
}

// Masses of two rows in units of 1 / kMassUnit.
struct TransportTotals {
  int64_t draft, target;
  double sum;  // of both, rounded; NaN once an entry was negative
};

// Whether the draft's row is a law up to rounding, and the target's row one up to a factor.
FD_HD static inline bool masses_are_laws(const TransportTotals& totals) {
  const double target = double(totals.target) / kMassUnit;
  return totals.sum < kMostMass && fabs(double(totals.draft) / kMassUnit - 1) < kTotalTolerance && target > kLeastTarget && target < kMostTarget;
}

// x^n, and (high^n - low^n) / (high - low) without cancellation, of several knots at once.
template <int W>
FD_GROUP void powers(const double* x, uint32_t n, double* result) {
  double square[W];
  for (int i = 0; i < W; ++i) square[i] = x[i], result[i] = 1;
  for (; n; n >>= 1) {
    for (int i = 0; i < W; ++i) {
      if (n & 1) result[i] *= square[i];
      square[i] *= square[i];
    }
  }
}

template <int W>
FD_GROUP void power_slopes(const double* low, const double* high, uint32_t n, double* total) {
  double low_power[W], high_power[W];
  for (int i = 0; i < W; ++i) total[i] = 0, low_power[i] = 1, high_power[i] = 1;
  int bit = 31;
  while (bit > 0 && !(n >> bit & 1)) --bit;
  for (; bit >= 0; --bit) {
    for (int i = 0; i < W; ++i) {
      total[i] *= low_power[i] + high_power[i];
      low_power[i] *= low_power[i];
      high_power[i] *= high_power[i];
    }
    if (!(n >> bit & 1)) continue;
    for (int i = 0; i < W; ++i) {
      total[i] = total[i] * low[i] + high_power[i];
      low_power[i] *= low[i];
      high_power[i] *= high[i];
    }
  }
}

// Needs plan.right, and the knots' masses in plan.base; `scale` turns ratios into those of normalised laws. Every thread of the
// group gets the plan.
template <class Group>
FD_GROUP void plan_from_masses(TransportPlan& plan, uint32_t draws, double scale, const double* ratios, const Group& group) {
  constexpr int W = Group::kWide;
  double *reached = plan.need, *mass = plan.base;
  group.each([&](int32_t k) {
    for (int i = 0; i < W; ++i) reached[k + i] = ratios[k + i] * mass[k + i];
  });
  group.stretch_sum(reached);
  const double worst = group.least([&](int32_t k, double* value) {
    bool empty = true;  // such knots repeat the one before them
    for (int i = 0; i < W; ++i) empty &= mass[k + i] == 0;
    if (empty) {
      for (int i = 0; i < W; ++i) value[i] = 0;
      return;
    }
    powers<W>(plan.right + k, draws, value);
    for (int i = 0; i < W; ++i) value[i] = scale * reached[k + i] - value[i];
  });
  const double rejected = worst < -kNoRejection ? -worst : 0;  // a smaller one exists through rounding only
  plan.alpha = 1 - rejected;
  plan.threshold = rejected > 0 ? ::exp(::log(rejected) / double(draws)) : 0;
  const int32_t at = group.first([&](int32_t k) {
    const double left = k ? plan.right[k - 1] : 0, before = k ? scale * reached[k - 1] : 0;
    return left < 1 && before + scale * ratios[k] * (1 - left) >= plan.alpha;
  });
  const double left_of_cap = at && at < kKnots ? plan.right[at - 1] : 0;
  const double cap = at < kKnots ? (plan.alpha - (at ? scale * reached[at - 1] : 0)) / (1 - left_of_cap) : double(INFINITY);
  plan.cap = cap / scale;
  group.sync();  // all have read what the next step overwrites
  group.each([&](int32_t k) {  // reads reached no more
    double low[W], slope[W];
    bool empty = true;
    for (int i = 0; i < W; ++i) empty &= mass[k + i] == 0;
    if (empty) {
      for (int i = 0; i < W; ++i) plan.rate[k + i] = scale * ratios[k + i] < cap ? scale * ratios[k + i] : cap, plan.need[k + i] = plan.give[k + i] = 0;
      return;
    }
    for (int i = 0; i < W; ++i) {
      const double left = k + i ? plan.right[k + i - 1] : 0;
      low[i] = left > plan.threshold ? left : plan.threshold;
    }
    power_slopes<W>(low, plan.right + k, draws, slope);
    for (int i = 0; i < W; ++i) {
      const double right = plan.right[k + i], left = k + i ? plan.right[k + i - 1] : 0, all = scale * ratios[k + i];
      const double base = mass[k + i] == 0 || right <= plan.threshold ? 0 : left >= plan.threshold ? slope[i] : slope[i] * (right - plan.threshold) / (right - left);
      const double rate = all < cap ? all : cap, deficit = mass[k + i] * (rate - base);
      plan.rate[k + i] = rate;
      plan.need[k + i] = deficit >= kNoDeficit ? deficit : 0;
      plan.give[k + i] = deficit <= -kNoDeficit ? -deficit : 0;
      mass[k + i] = base;
    }
  });
  group.stretch_sum(plan.need);
  group.stretch_sum(plan.give);
}

}  // namespace fastdecode
