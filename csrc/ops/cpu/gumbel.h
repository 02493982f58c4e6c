// Gumbel-max sampling without looking at every token: conservative bounds first, exact double arithmetic for the few that
// could still win. Token v has the exponential variate E = -log1p(-u_v) and the score logit / temperature - log E.
#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

static inline double gumbel_score(float logit, double temperature, double u) { return double(logit) / temperature - ::log(-::log1p(-u)); }

// Covers the rounding of the scores themselves wherever a bound is compared with a score.
static inline double gumbel_slack(double score) { return 1e-9 + 1e-12 * ::fabs(score); }

// The largest high word with which a logit of at most `largest` can reach `score`; -1 if none can.
static inline int64_t gumbel_limit(float largest, double temperature, double score) {
  const double log_e = double(largest) / temperature - score + gumbel_slack(score);  // log E may be at most this
  if (!(log_e < 4)) return 0xFFFFFFFF;                                               // E is never above 37 < e^4
  if (log_e < -46) return -1;                                                        // E is never below 2^-65 > e^-46
  const double limit = -::expm1(-::exp(log_e)) * 0x1p32 * (1 + 1e-9) + 1;           // u may be at most this, as a high word
  return limit < 0xFFFFFFFFp0 ? int64_t(limit) : 0xFFFFFFFF;                         // a word beyond 32 bits would wrap to a tiny limit
}

// False if the logit cannot reach `score`, judged from the leading zeros of the high word alone: E >= u >= 2^(-1 - zeros).
static inline bool gumbel_may_reach(float logit, double temperature, uint32_t high, double score) {
  if (high == 0) return true;
  return double(logit) / temperature + (1 + __builtin_clz(high)) * 0.6931471805599454 >= score - gumbel_slack(score);
}

}  // namespace fastdecode
