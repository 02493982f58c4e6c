#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

// CreditDecoding (arXiv:2510.06133): gives credit to the most probable token of a row of logits and finds what vocab_stats would find
// in logits + alpha log(1 + credit), from what it found in the logits.
struct CreditFuseArgs {
  const float* floats;     // [R, 16], [R, 2]: as vocab_stats writes them
  const int32_t* ints;
  const float* id_logits;  // [R, K] logits of `ids`
  float alpha;             // (between words of 8 bytes, as launches through cupy need it)
  int64_t rows;
  float gamma;
  int64_t slots;           // K
  float beta;
  int32_t* ids;            // [R, K] in and out: tokens that hold credit, -1 where there is none
  float* values;           // [R, K] in and out
  float* fused_floats;     // [R, 16] out; columns 0, 3 and 5 differ from `floats`
  int32_t* fused_ints;     // [R, 2] out
};

constexpr float kForgottenCredit = 1e-6f;

FD_HD static inline void credit_fuse_row(const CreditFuseArgs& a, int64_t r) {
  int32_t* ids = a.ids + r * a.slots;
  float* values = a.values + r * a.slots;
  const float* f = a.floats + 16 * r;
  const int32_t argmax = a.ints[2 * r];
  const double top1 = f[0], total = f[3];
  int64_t slot = 0;
  bool found = false;
  for (int64_t k = 0; k < a.slots; ++k) {
    values[k] *= a.beta;
    if (ids[k] == argmax && !found) slot = k, found = true;
    else if (!found && values[k] < values[slot]) slot = k;
  }
  values[slot] = float(double(found ? values[slot] : 0.0f) + pow(exp(top1 - total), double(a.gamma)));
  ids[slot] = argmax;
  double best = -__builtin_inf(), weight = exp(total - top1);
  int32_t choice = -1;
  for (int64_t k = 0; k < a.slots; ++k) {
    if (ids[k] < 0) continue;
    const double logit = k == slot ? top1 : double(a.id_logits[r * a.slots + k]), bonus = double(a.alpha) * log1p(double(values[k])), fused = logit + bonus;
    const double added = exp(logit - top1) * expm1(bonus);
    if (added == added) weight += added;
    if (fused > best || (fused == best && ids[k] < choice)) best = fused, choice = ids[k];
  }
  for (int c = 0; c < 16; ++c) a.fused_floats[16 * r + c] = f[c];
  a.fused_floats[16 * r] = a.fused_floats[16 * r + 5] = float(best);
  a.fused_floats[16 * r + 3] = float(top1 + log(weight));
  a.fused_ints[2 * r] = a.fused_ints[2 * r + 1] = choice;
  for (int64_t k = 0; k < a.slots; ++k)
    if (values[k] < kForgottenCredit) ids[k] = -1, values[k] = 0;
}

void credit_fuse(const CreditFuseArgs& args);

}  // namespace fastdecode
