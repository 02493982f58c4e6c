#pragma once

#include <cstdint>

namespace fastdecode {

// One pass over each row of logits: the largest two, log-sum-exp, entropy, a sample, and the logits of given ids. With `credit_rows`
// the sample is the best token of logits + alpha log(1 + credit), and its logit, log-sum-exp and entropy are of these (vocab_credit.h).
struct VocabStatsArgs {
  const void* logits;  // [R, V] rows `stride` elements apart
  int64_t rows, vocab, stride;
  int dtype;
  const int32_t* ids;        // [R, K] -1: none; or null
  int64_t ids_per_row;       // K
  const int32_t* banned;     // [count] ids that count as -inf, negative: none; or null
  int64_t banned_count;
  const float* temperature;  // [R] or null: no sample
  const int64_t* key;        // [R, 4] or null
  float* floats;             // [R, 16] columns of VocabColumn; null: only the two largest are looked for
  int32_t* ints;             // [R, 2] argmax, sample; without floats argmax and the id of the second largest
  float* id_logits;          // [R, K] or null
  const int32_t* credit_rows;  // [R] row of credit that belongs to a row of logits, each at most once, negative: none; or null
  int32_t* credit_ids;         // [N, S] in and out: tokens that have credit, -1: none
  float* credit_values;        // [N, S] in and out
  int64_t credit_slots;        // S, at most kMaxCredit
  const float* credit_rates;   // [R, 3] alpha, gamma, beta
};

enum VocabColumn { kTop1 = 0, kTop2 = 1, kSecond = 2, kLogSumExp = 3, kEntropy = 4, kSampleLogit = 5, kModelLogSumExp = 6, kVocabColumns = 16 };

constexpr int64_t kMaxCredit = 64;

// What is known of a row after some of its blocks; sums are relative to top1.
struct VocabPart {
  float top1, top2;
  int32_t id1, id2;      // -1 while the logit is -inf
  double sum, weighted;  // sum of exp(x - top1) and of (x - top1) exp(x - top1)
  double score;          // best Gumbel score
  int32_t sample;
  bool nan;
};

void vocab_stats(const VocabStatsArgs& args);

// The same for rows of which only some columns are there (`logits` says where column 0 would be): the columns [begin, end) of a
// row (begin a multiple of 64), the logits of the ids that lie among them (of those with credit in credit_logits [S]), and the
// results of a row from all its cuts, left to right.
struct VocabCut {
  VocabPart part;
  float sample_logit;
};

VocabCut vocab_cut(const VocabStatsArgs& args, int64_t row, int64_t begin, int64_t end);
void write_id_logits(const VocabStatsArgs& args, int64_t row, int64_t begin, int64_t end, float* credit_logits);
void write_vocab_stats(const VocabStatsArgs& args, int64_t row, const VocabCut* cuts, int64_t count, const float* credit_logits);

// Adds the columns [begin, end) of one row to `part`; begin is a multiple of 64.
using VocabPartFn = void (*)(const VocabStatsArgs& args, int64_t row, int64_t begin, int64_t end, VocabPart* part);
namespace scalar {
void vocab_stats_part(const VocabStatsArgs& args, int64_t row, int64_t begin, int64_t end, VocabPart* part);
}
namespace avx2 {
void vocab_stats_part(const VocabStatsArgs& args, int64_t row, int64_t begin, int64_t end, VocabPart* part);
}
namespace avx512 {
void vocab_stats_part(const VocabStatsArgs& args, int64_t row, int64_t begin, int64_t end, VocabPart* part);
}

}  // namespace fastdecode
