#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

constexpr int32_t kStillMasked = 0x7FFFFFFF;  // in `changed`: the position has no token yet

enum Scorer : int32_t { kConfidence, kMargin, kNegativeEntropy, kLeftToRight, kGivenScore };
enum UnmaskRule : int32_t { kTopK, kThreshold, kFactor, kFactorWithLast };
enum CanvasFinish : int32_t { kBlockOpen, kBlockFull, kCanvasFull, kTextEnded };

// Chooses which proposals of masked positions become tokens, and writes them. Candidates are the rows of vocab_stats, those of one
// sequence side by side at ascending positions; candidates whose position has a token already, and those without a proposal
// (id -1), are never chosen. With `canvas` it then says how far every sequence has come.
struct UnmaskCommitArgs {
  const float* floats;       // [R, 16], [R, 2]: as vocab_stats writes them; the proposal is the sample
  const int32_t* ints;
  const int32_t* begin;      // [B + 1] first candidate of each sequence
  const int32_t* position;   // [R] column of `tokens`
  const float* factor;       // [R] that scores are multiplied by, or null
  const float* noise;        // [R] that is added to them then, or null
  const float* tie;          // [R] of equal scores the one with more of this is better, or null
  const uint8_t* accepted;   // [R] candidates that are chosen whatever their score, or null
  const int32_t* quota;      // [B] choose at least so many, as far as there are candidates
  int64_t rows, batch;
  int64_t scorer, rule;
  float bar;
  int64_t step;              // written to `changed` where a token is chosen
  float cut;                 // an end of text that is chosen with this score fills the masks behind it; infinite: none does
  const int32_t* canvas;     // [B, 3] columns where the canvas begins, where its block ends and where it ends; or null
  const int32_t* eos;        // [eos_count] ids that end a text
  int64_t eos_count;
  int32_t* tokens;           // [B, stride]
  int32_t* changed;
  int64_t stride;
  float* scores;             // [R] out (kGivenScore: in): -inf where there is nothing to choose
  float* sorted;             // [R] scratch
  int32_t* rank;             // [R] out: 0 is the best of a sequence
  int32_t* chosen;           // [B] out
  int32_t* finish;           // [B] out: a CanvasFinish; only with `canvas`
};

// Score of a candidate; NaN, which comes of infinite logits, counts as lowest.
FD_HD static inline float unmask_score(const UnmaskCommitArgs& a, int64_t b, int64_t r) {
  const float* f = a.floats + 16 * r;
  if (a.ints[2 * r + 1] < 0 || a.position[r] < 0 || a.position[r] >= a.stride || a.changed[b * a.stride + a.position[r]] != kStillMasked) return -__builtin_inff();
  const double top1 = f[0], top2 = f[1], sum = f[3], sample = f[5];
  double score = a.scorer == kConfidence ? exp(sample - sum) : a.scorer == kMargin ? exp(top1 - sum) - exp(top2 - sum) : a.scorer == kNegativeEntropy ? -double(f[4]) : a.scorer == kLeftToRight ? -double(a.position[r]) : double(a.scores[r]);
  if (a.factor) score *= a.factor[r];
  if (a.noise) score += a.noise[r];
  return score == score && score > -3e38 ? float(score) : -3.0e38f;
}

// Whether candidate x is better than y; of equals the first.
FD_HD static inline bool unmask_better(const UnmaskCommitArgs& a, int64_t x, int64_t y) {
  if (a.scores[x] != a.scores[y]) return a.scores[x] > a.scores[y];
  if (a.tie && a.tie[x] != a.tie[y]) return a.tie[x] > a.tie[y];
  return x < y;
}

FD_HD static inline bool ends_text(const UnmaskCommitArgs& a, int32_t id) {
  for (int64_t e = 0; e < a.eos_count; ++e)
    if (a.eos[e] == id) return true;
  return false;
}

FD_HD static inline bool cuts_text(const UnmaskCommitArgs& a, int64_t r) { return a.cut < __builtin_inff() && a.scores[r] >= a.cut && ends_text(a, a.ints[2 * r + 1]); }

// From the first mask and the first generated end of text of a canvas, both its end where there is none.
FD_HD static inline int32_t canvas_finish(const int32_t* canvas, int64_t mask, int64_t end) { return end < mask ? kTextEnded : mask >= canvas[2] ? kCanvasFull : mask >= canvas[1] ? kBlockFull : kBlockOpen; }

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

// Throws std::out_of_range unless the first candidates of `batch` sequences ascend within `rows` candidates.
void check_candidates(const int32_t* begin, int64_t batch, int64_t rows);

// Throws std::out_of_range, before anything is written, when a position or a canvas lies outside the rows or candidates do not ascend.
void unmask_commit(const UnmaskCommitArgs& args);

}  // namespace fastdecode
