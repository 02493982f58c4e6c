#pragma once

#include <cmath>

#include "fastdecode/philox.cuh"
#include "ops/cpu/vocab_stats.h"

namespace fastdecode {

constexpr float kForgottenCredit = 1e-6f;

// CreditDecoding (arXiv:2510.06133): gives credit to the most probable token of a row and corrects what was found in its logits to what is
// in logits + alpha log(1 + credit). `logits` [S] are those of the tokens that had credit before.
template <class Logits>
FD_HD static inline void add_credit(const VocabStatsArgs& a, int64_t row, const Logits& logits) {
  float* f = a.floats + row * kVocabColumns;
  int32_t* ints = a.ints + row * 2;
  const double top1 = f[kTop1], total = f[kLogSumExp];
  f[kModelLogSumExp] = f[kLogSumExp];
  if (a.credit_rows[row] < 0 || ints[0] < 0 || !(top1 < __builtin_inf())) return;
  int32_t* ids = a.credit_ids + a.credit_rows[row] * a.credit_slots;
  float* values = a.credit_values + a.credit_rows[row] * a.credit_slots;
  const float* rates = a.credit_rates + 3 * row;
  const double alpha = rates[0], gamma = rates[1];
  int64_t slot = 0;
  bool found = false;
  for (int64_t k = 0; k < a.credit_slots; ++k) {
    values[k] *= rates[2];
    if (ids[k] == ints[0] && !found) slot = k, found = true;
    else if (!found && values[k] < values[slot]) slot = k;
  }
  values[slot] = float(double(found ? values[slot] : 0.0f) + pow(exp(top1 - total), gamma));
  ids[slot] = ints[0];
  double best = -__builtin_inf(), sum = exp(total - top1), weighted = sum * (total - top1 - double(f[kEntropy]));
  int32_t choice = -1;
  for (int64_t k = 0; k < a.credit_slots; ++k) {
    if (ids[k] < 0) continue;
    const double logit = k == slot ? top1 : double(logits[k]), bonus = alpha * log1p(double(values[k]));
    if (logit > -__builtin_inf()) {
      const double weight = exp(logit - top1), more = weight * expm1(bonus);
      sum += more;
      weighted += more * (logit - top1) + (weight + more) * bonus;
    }
    if (logit + bonus > best || (logit + bonus == best && ids[k] < choice)) best = logit + bonus, choice = ids[k];
  }
  if (alpha != 0) {  // without a bonus everything is what it was, to the last bit
    const double entropy = log(sum) - weighted / sum;
    ints[1] = choice;  // the most probable token has credit, so the best of all is the best of those that have
    f[kSampleLogit] = float(best);
    f[kLogSumExp] = float(top1 + log(sum));
    f[kEntropy] = float(entropy > 0 ? entropy : 0);
  }
  for (int64_t k = 0; k < a.credit_slots; ++k)
    if (values[k] < kForgottenCredit) ids[k] = -1, values[k] = 0;
}

}  // namespace fastdecode
