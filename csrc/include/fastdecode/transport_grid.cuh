// Score-swap on ratio knots: where tokens lie on the grid, and the score of a draft. The rule, its proof and the readable version
// are in fastdecode/ops/reference/transport.py and docs/transport.md. Every function is `static`, see philox.cuh.
#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

// Knots are 0 and the floats with kMantissaBits bits from 2^-16 to 2^16; a token with ratio x = p/q is split between its two
// neighbours, in units of 2^-kSplitBits.
constexpr int kMantissaBits = 5, kSplitBits = 23 - kMantissaBits;
constexpr float kLowestRatio = 0x1p-16f, kHighestRatio = 0x1p16f;
constexpr int32_t kFirstKnotBits = (127 - 16) << kMantissaBits;  // of kLowestRatio, without the split bits
constexpr int32_t kUsedKnots = (32 << kMantissaBits) + 2;
constexpr int kStretches = 32;                                             // sums over knots: within stretches first
constexpr int32_t kStretch = (kUsedKnots + 1 + kStretches - 1) / kStretches;  // knots
constexpr int32_t kKnots = kStretches * kStretch;                          // those behind the used ones stay empty
constexpr double kMassUnit = 0x1p60;  // of fixed-point masses: sums of integers do not depend on their order
constexpr double kTotalTolerance = 0x1p-8;  // of a law's sum: bfloat16 rounds each entry by up to 2^-9 of it
constexpr double kLeastTarget = 0.25, kMostTarget = 4;  // of a target's sum, which need not be 1
constexpr double kMostMass = 6;  // of both laws together: integers of kMassUnit hold less than 8
constexpr double kNoDeficit = 4e-16, kNoRejection = 1e-12;

struct TokenSplit {
  int32_t cell, share;  // lower knot; part of the upper one in units of 2^-kSplitBits
};

union FloatBits {
  float value;
  int32_t bits;
};

FD_HD static inline int32_t float_bits(float x) {
  FloatBits f;
  f.value = x;
  return f.bits;
}

FD_HD static inline float float_from(int32_t bits) {
  FloatBits f;
  f.bits = bits;
  return f.value;
}

FD_HD static inline double knot_ratio(int32_t knot) {
  if (knot == 0) return 0;
  const int32_t last = kUsedKnots - 2;
  return double(float_from(((knot - 1 < last ? knot - 1 : last) + kFirstKnotBits) << kSplitBits));
}

// p / q, never above the true ratio, at most kHighestRatio (also for q = 0, which has no mass to split).
FD_HD static inline float token_ratio(float p, float q) {
  if (!(q > 0)) return kHighestRatio;
  float x = p / q;
  if (!(x < kHighestRatio)) x = kHighestRatio;
  return double(x) * double(q) > double(p) ? float_from(float_bits(x) - 1) : x;
}

FD_HD static inline TokenSplit split_ratio(float x) {
  if (x < kLowestRatio) return {0, int32_t(double(x) * double(1 << kSplitBits) * 0x1p16)};
  const int32_t bits = float_bits(x);
  return {(bits >> kSplitBits) - kFirstKnotBits + 1, bits & ((1 << kSplitBits) - 1)};
}

// The ratio that a split stands for.
FD_HD static inline double split_value(float x, TokenSplit split) { return x < kLowestRatio ? double(split.share) * (0x1p-16 / (1 << kSplitBits)) : double(x); }

FD_HD static inline int64_t whole_mass(float q) { return int64_t(double(q) * kMassUnit); }
FD_HD static inline int64_t upper_mass(float q, int32_t share) { return int64_t(double(q) * double(share) * (kMassUnit / (1 << kSplitBits))); }

// What verification of one node needs; arrays of kKnots.
struct TransportPlan {
  double alpha, cap, threshold;  // chance that a draft is kept, highest ratio (of p and q as given) kept whole, score of a winner
  double *right;                 // ends of the knots' intervals on [0, 1]; each starts where the one before it ends
  double *rate, *base;           // kept mass per draft mass, and what it would be if the highest position won
  double *need, *give;           // running sums of how much base falls short of rate, and exceeds it
};

FD_HD static inline int32_t first_at_least(const double* sums, double level) {
  int32_t low = 0, high = kKnots;
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (sums[middle] < level)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// The knot whose step of the running sums holds that level; rounding may put the level behind the last step.
FD_HD static inline int32_t swap_partner(const double* sums, double level) {
  const int32_t at = first_at_least(sums, level), last = first_at_least(sums, sums[kKnots - 1]);
  return at < last ? at : last;
}

// Score of draft number `draw`, a token split like that.
FD_HD static inline double draft_score(const TransportPlan& plan, TokenSplit split, const Stream& coins, uint32_t draw) {
  const int32_t knot = split.cell + (stream_uniform(coins, 4 * draw) * double(1 << kSplitBits) < double(split.share) ? 1 : 0);
  const double need_before = knot ? plan.need[knot - 1] : 0, give_before = knot ? plan.give[knot - 1] : 0;
  const double need = plan.need[knot] - need_before, give = plan.give[knot] - give_before, level = stream_uniform(coins, 4 * draw + 1);
  int32_t cell = knot;
  if (need > 0) {
    const int32_t other = swap_partner(plan.give, need_before + level * need);
    if (stream_uniform(coins, 4 * draw + 2) < (plan.rate[knot] - plan.base[knot]) / (plan.base[other] - plan.base[knot])) cell = other;
  } else if (give > 0) {
    const int32_t other = swap_partner(plan.need, give_before + level * give);
    if (stream_uniform(coins, 4 * draw + 2) < (plan.base[knot] - plan.rate[knot]) / (plan.base[knot] - plan.base[other])) cell = other;
  }
  const double left = cell ? plan.right[cell - 1] : 0;
  return left + stream_uniform(coins, 4 * draw + 3) * (plan.right[cell] - left);
}

// What a token's draft mass keeps of its ratio is min(x, line through the cap's cell, cap); its residual is what is left of p.
struct TransportResidual {
  double low, flat, cap;  // knot below the cap; 1 - slope of the line above it
};

FD_HD static inline double residual_weight(const TransportResidual& r, float p, float q) {
  const double w = double(p), mass = double(q);
  if (!(q > 0)) return w;
  const float x = token_ratio(p, q);
  const double whole = w - mass * split_value(x, split_ratio(x)), bent = r.flat * (w - mass * r.low), capped = w - mass * r.cap;
  const double most = whole > bent ? whole : bent;
  return most > capped ? (most > 0 ? most : 0) : (capped > 0 ? capped : 0);
}

FD_HD static inline TransportResidual transport_residual(double cap) {
  const double top = double(kHighestRatio);
  if (!(cap < top)) return {top, 1, cap};  // tokens at the end of the grid keep their clipped ratio, or the cap if that is lower
  int32_t low = 0, high = kUsedKnots - 1;  // the first knot above the cap
  while (low < high) {
    const int32_t middle = (low + high) / 2;
    if (knot_ratio(middle) <= cap)
      low = middle + 1;
    else
      high = middle;
  }
  const double below = knot_ratio(low - 1);
  return {below, 1 - (cap - below) / (knot_ratio(low) - below), cap};
}

}  // namespace fastdecode
