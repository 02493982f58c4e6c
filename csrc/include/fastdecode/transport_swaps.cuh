// Chances of drafts to win, for verification of whole trees: score laws of tokens and the quadrature that integrates their products.
// The readable version is fastdecode/ops/reference/transport_block.py.
#pragma once

#include <cmath>

#include "fastdecode/transport_grid.cuh"

namespace fastdecode {

constexpr int kMaxBlockDraws = 64;  // at one node
constexpr int kMaxPoints = kMaxBlockDraws / 2 + 1;

// Point i and its weight of the Gauss-Legendre quadrature with n points on [-1, 1], exact for polynomials of degree 2 n - 1.
FD_HD static inline void legendre_point(int n, int i, double* point, double* weight) {
  double x = ::cos(3.14159265358979323846 * (i + 0.75) / (n + 0.5)), slope = 1;
  for (int step = 0; step < 100; ++step) {  // Newton's method on the Legendre polynomial
    double before = 1, value = x;
    for (int k = 2; k <= n; ++k) {
      const double next = ((2 * k - 1) * x * value - (k - 1) * before) / k;
      before = value;
      value = next;
    }
    slope = n * (x * value - before) / (x * x - 1);
    const double change = value / slope;
    x -= change;
    if (::fabs(change) < 1e-16) break;
  }
  *point = x;
  *weight = 2 / ((1 - x * x) * slope * slope);
}

FD_HD static inline double step_of(const double* sums, int32_t k) { return sums[k] - (k ? sums[k - 1] : 0); }

// Adds `share` times the law of the interval that a draft in `knot` takes its score from.
FD_HD static inline void add_swaps(const TransportPlan& plan, int32_t knot, double share, double* law) {
  law[knot] += share;
  const bool needs = step_of(plan.need, knot) > 0;
  const double *own = needs ? plan.need : plan.give, *partner = needs ? plan.give : plan.need;
  const double size = step_of(own, knot);
  if (size <= 0) return;
  const double end = own[knot], begin = end - size;
  for (int32_t other = swap_partner(partner, begin), last = swap_partner(partner, end); other <= last; ++other) {
    const double from = partner[other] - step_of(partner, other), to = partner[other];
    const double overlap = (end < to ? end : to) - (begin > from ? begin : from);
    if (overlap <= 0) continue;
    const double moved = share * (overlap / size * (plan.rate[knot] - plan.base[knot]) / (plan.base[other] - plan.base[knot]));
    law[other] += moved;
    law[knot] -= moved;
  }
}

// Running sums [kKnots] of the score law of a token with these probabilities.
FD_HD static inline void score_sums(const TransportPlan& plan, float p, float q, double* sums) {
  for (int32_t k = 0; k < kKnots; ++k) sums[k] = 0;
  const TokenSplit split = split_ratio(token_ratio(p, q));
  const double share = double(split.share) / double(1 << kSplitBits);
  if (share < 1) add_swaps(plan, split.cell, 1 - share, sums);
  if (share > 0) add_swaps(plan, split.cell + 1, share, sums);
  double sum = 0;
  for (int32_t k = 0; k < kKnots; ++k) sums[k] = sum += sums[k] < 0 ? 0 : sums[k];
}

// The distinct tokens drawn at a node.
struct Drawn {
  int32_t count, draws;
  int32_t token[kMaxBlockDraws], times[kMaxBlockDraws];
  double won[kMaxBlockDraws];  // chance that one of them wins
};

FD_HD static inline void collect_draws(const int32_t* begin, const int32_t* end, int64_t vocab, Drawn* drawn) {
  drawn->count = drawn->draws = 0;
  for (const int32_t* token = begin; token < end && drawn->draws < kMaxBlockDraws; ++token) {
    if (uint64_t(*token) >= uint64_t(vocab)) continue;
    ++drawn->draws;
    int32_t at = 0;
    while (at < drawn->count && drawn->token[at] != *token) ++at;
    if (at == drawn->count) drawn->token[at] = *token, drawn->times[at] = 0, drawn->won[at] = 0, ++drawn->count;
    ++drawn->times[at];
  }
}

FD_HD static inline double raised(double x, int32_t n) {
  double result = 1;
  for (; n > 0; --n) result *= x;
  return result;
}

// A node passes with this chance once no child of it did.
FD_HD static inline double passing_chance(double weight, double alpha) { return weight >= 1 || alpha >= 1 ? 1 : (weight - alpha) / (1 - alpha); }

}  // namespace fastdecode
