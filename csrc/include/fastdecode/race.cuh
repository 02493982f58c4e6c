// Exponential race: token v finishes at E_v / w_v with E_v ~ Exp(1), the earliest wins, so v wins with probability w_v / sum(w).
// No normalisation and no prefix sum: any order of evaluation gives the same winner, which is what makes the scalar, vector and
// CUDA versions return equal tokens. Every function is `static`, see philox.cuh.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

struct Race {
  double time;    // finishing time of the winner so far
  int32_t token;  // -1: nobody with mass yet
  int32_t valid;  // 0 once a weight was NaN or infinite
};

FD_HD static inline Race race_start() { return Race{double(INFINITY), -1, 1}; }

// The token the race was won by, -1 for a row that is invalid or has no mass.
FD_HD static inline int32_t race_result(const Race& race) { return race.valid ? race.token : -1; }

// Keeps the earlier of two races over disjoint tokens; the lower token wins a tie.
FD_HD static inline Race race_merge(const Race& a, const Race& b) {
  Race first = a;
  if (b.time < a.time || (b.time == a.time && uint32_t(b.token) < uint32_t(a.token))) first = b;
  first.valid = a.valid && b.valid;
  return first;
}

// E >= u >= high * 2^-32, so most tokens lose on the high word alone; the margin covers every rounding on the way.
FD_HD static inline bool race_may_win(const Race& race, uint32_t high, double weight) {
  return double(high) * (0x1p-32 * (1 - 0x1p-40)) <= race.time * weight;
}

// Enters `token` with a positive finite weight and the high word of its uniform number. Tokens must come in ascending order.
FD_HD static inline void race_enter(Race& race, const Stream& s, uint32_t token, double weight, uint32_t high) {
  if (!race_may_win(race, high, weight)) return;
  const double time = -log1p(-uniform_from_bits(high, stream_bits(s, token, 1))) / weight;
  if (time < race.time || (race.token < 0 && time == race.time)) race.time = time, race.token = int32_t(token);
}

// Enters the tokens 4 * block ... 4 * block + 3, which share one Philox call; weights <= 0 take no part.
FD_HD static inline void race_enter4(Race& race, const Stream& s, uint32_t block, const double* weights) {
  bool any = false;
  for (int i = 0; i < 4; ++i) {
    if (!(weights[i] <= DBL_MAX)) race.valid = 0;
    any |= weights[i] > 0;
  }
  if (!any || !race.valid) return;
  const Words high = philox4x32(Words{{block, 0, s.counter2, s.counter3}}, s.key0, s.key1);
  for (int i = 0; i < 4; ++i)
    if (weights[i] > 0) race_enter(race, s, 4 * block + i, weights[i], high.w[i]);
}

}  // namespace fastdecode
