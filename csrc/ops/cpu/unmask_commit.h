#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

constexpr int32_t kStillMasked = 0x7FFFFFFF;  // in `changed`: the position has no token yet

enum Scorer : int32_t { kConfidence, kMargin, kNegativeEntropy, kLeftToRight, kGivenScore };
enum UnmaskRule : int32_t { kTopK, kThreshold, kFactor, kFactorWithLast };

// Chooses which proposals of masked positions become tokens, and writes them. Candidates are the rows of vocab_stats, those of one
// sequence side by side at ascending positions; candidates whose position has a token already, and those without a proposal
// (id -1), are never chosen.
struct UnmaskCommitArgs {
  const float* floats;       // [R, 16], [R, 2]: as vocab_stats writes them; the proposal is the sample
  const int32_t* ints;
  const int32_t* begin;      // [B + 1] first candidate of each sequence
  const int32_t* position;   // [R] column of `tokens`
  const float* factor;       // [R] that scores are multiplied by, or null
  const uint8_t* accepted;   // [R] candidates that are chosen whatever their score, or null
  const int32_t* quota;      // [B] choose at least so many, as far as there are candidates
  int64_t rows, batch;
  int64_t scorer, rule;
  float bar;
  int64_t step;              // written to `changed` where a token is chosen
  int32_t* tokens;           // [B, stride]
  int32_t* changed;
  int64_t stride;
  float* scores;             // [R] out (kGivenScore: in): -inf where there is nothing to choose
  float* sorted;             // [R] scratch
  int32_t* rank;             // [R] out: 0 is the best of a sequence
  int32_t* chosen;           // [B] out
};

// Score of a candidate; NaN, which comes of infinite logits, counts as lowest.
FD_HD static inline float unmask_score(const UnmaskCommitArgs& a, int64_t b, int64_t r) {
  const float* f = a.floats + 16 * r;
  if (a.ints[2 * r + 1] < 0 || a.position[r] < 0 || a.position[r] >= a.stride || a.changed[b * a.stride + a.position[r]] != kStillMasked) return -__builtin_inff();
  const double top1 = f[0], top2 = f[1], sum = f[3], sample = f[5];
  double score = a.scorer == kConfidence ? exp(sample - sum) : a.scorer == kMargin ? exp(top1 - sum) - exp(top2 - sum) : a.scorer == kNegativeEntropy ? -double(f[4]) : a.scorer == kLeftToRight ? -double(a.position[r]) : double(a.scores[r]);
  if (a.factor) score *= a.factor[r];
  return score == score && score > -3e38 ? float(score) : -3.0e38f;
}

// How many of the best candidates the rule takes: scores[0, count) descend.
FD_HD static inline int64_t unmask_count(const UnmaskCommitArgs& a, const float* scores, int64_t count) {
  if (a.rule == kTopK) return 0;
  int64_t n = 0;
  if (a.rule == kThreshold) {
    while (n < count && scores[n] >= a.bar) ++n;
    return n;
  }
  // Fast-dLLM (arXiv:2505.22618): the n best when (n + 1)(1 - score of the n-th) < factor; the first always.
  n = 1;
  while (n < count && double(n + 2) * (1.0 - double(scores[n])) < double(a.bar)) ++n;
  if (a.rule == kFactorWithLast && n == count - 1) ++n;  // as the published code counts
  return n;
}

// Throws std::out_of_range, before anything is written, when a position lies outside the rows or candidates do not ascend.
void unmask_commit(const UnmaskCommitArgs& args);

}  // namespace fastdecode
