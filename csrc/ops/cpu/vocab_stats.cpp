#define FD_SIMD_NAMESPACE scalar
#include "ops/cpu/simd_scalar.h"
#include "ops/cpu/vocab_stats_body.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/vocab_credit.h"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {

static const Kernel<VocabPartFn> kernel("vocab_stats", scalar::vocab_stats_part, FD_X86(avx2::vocab_stats_part), FD_X86(avx512::vocab_stats_part));

namespace {

constexpr VocabPart kEmptyPart = {-__builtin_inff(), -__builtin_inff(), -1, -1, 0, 0, -__builtin_inf(), -1, false};
constexpr int64_t kMaxParts = 64, kSmallestPart = 16 * 2048;

// Rows are always cut at the same places, so that a result does not depend on who works on which part.
int64_t part_size(int64_t vocab) {
  const int64_t size = (vocab + kMaxParts - 1) / kMaxParts;
  return std::max(kSmallestPart, (size + 2047) / 2048 * 2048);
}

void offer(float logit, int32_t id, VocabPart& p) {
  if (logit > p.top1) {
    p.top2 = p.top1, p.id2 = p.id1;
    p.top1 = logit, p.id1 = id;
  } else if (logit > p.top2) {
    p.top2 = logit, p.id2 = id;
  }
}

// Appends `b`, the part to the right of `a`.
void merge(VocabPart& a, const VocabPart& b) {
  const float before = a.top1;
  a.nan |= b.nan;
  offer(b.top1, b.id1, a);
  offer(b.top2, b.id2, a);
  if (std::isfinite(a.top1)) {
    const double shift_a = double(before) - double(a.top1), shift_b = double(b.top1) - double(a.top1);
    const double scale_a = a.sum > 0 ? std::exp(shift_a) : 0, scale_b = b.sum > 0 ? std::exp(shift_b) : 0;
    a.weighted = (scale_a > 0 ? scale_a * (a.weighted + shift_a * a.sum) : 0) + (scale_b > 0 ? scale_b * (b.weighted + shift_b * b.sum) : 0);
    a.sum = scale_a * a.sum + scale_b * b.sum;
  }
  if (b.score > a.score) a.score = b.score, a.sample = b.sample;
}

void write_row(const VocabStatsArgs& a, int64_t row, const VocabPart& p, float sample_logit, const float* credit_logits) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInf = std::numeric_limits<float>::infinity();
  int32_t* i = a.ints + row * 2;
  i[0] = p.nan ? -1 : p.id1;
  if (!a.floats) {
    i[1] = p.nan ? -1 : p.id2;
    return;
  }
  float* f = a.floats + row * kVocabColumns;
  std::fill(f, f + kVocabColumns, 0.0f);
  const bool drawn = p.sample >= 0 && p.top1 < kInf && a.key && a.temperature[row] > 0;
  i[1] = p.nan ? -1 : drawn ? p.sample : p.id1;
  f[kTop1] = p.nan ? kNan : p.top1;
  f[kTop2] = p.nan ? kNan : p.top2;
  f[kSecond] = p.nan ? -1.0f : float(p.id2);
  f[kLogSumExp] = p.nan ? kNan : std::isfinite(p.top1) ? float(double(p.top1) + std::log(p.sum)) : p.top1;
  f[kEntropy] = p.nan || !std::isfinite(p.top1) ? kNan : float(std::max(0.0, std::log(p.sum) - p.weighted / p.sum));
  f[kSampleLogit] = p.nan ? kNan : drawn ? sample_logit : p.top1;
  if (a.credit_rows) add_credit(a, row, credit_logits);
}

float logit_of(const VocabStatsArgs& a, int64_t row, int32_t id) { return id < 0 ? -std::numeric_limits<float>::infinity() : element(a.logits, a.dtype, row * a.stride + id); }

// Of the ids that lie among the columns [begin, end).
void logits_of(const VocabStatsArgs& a, int64_t row, int64_t begin, int64_t end, const int32_t* ids, int64_t count, float* out) {
  for (int64_t k = 0; k < count; ++k) {
    const bool hidden = ids[k] < 0 || ids[k] >= a.vocab || std::find(a.banned, a.banned + a.banned_count, ids[k]) != a.banned + a.banned_count;
    if (hidden ? begin > 0 : ids[k] < begin || ids[k] >= end) continue;  // each is written once
    out[k] = logit_of(a, row, hidden ? -1 : ids[k]);
  }
}

void whole_row(const VocabStatsArgs& a, int64_t row, int64_t size) {
  VocabPart all = kEmptyPart;
  for (int64_t begin = 0; begin < a.vocab; begin += size) {
    VocabPart part = kEmptyPart;
    part.score = all.score;  // an earlier part's score only lets the later ones skip more
    kernel.get()(a, row, begin, std::min(a.vocab, begin + size), &part);
    if (part.sample < 0) part.score = -std::numeric_limits<double>::infinity();
    merge(all, part);
  }
  float credit_logits[kMaxCredit];
  write_id_logits(a, row, 0, a.vocab, credit_logits);
  write_row(a, row, all, logit_of(a, row, all.sample), credit_logits);
}

// A single row on several threads: every part on its own, then the same merges.
void split_row(const VocabStatsArgs& a, int64_t row, int64_t size) {
  VocabCut cuts[kMaxParts];
  const int64_t count = (a.vocab + size - 1) / size;
  parallel_for(count, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t k = begin; k < end; ++k) cuts[k] = vocab_cut(a, row, k * size, std::min(a.vocab, (k + 1) * size));
  });
  float credit_logits[kMaxCredit];
  write_id_logits(a, row, 0, a.vocab, credit_logits);
  write_vocab_stats(a, row, cuts, count, credit_logits);
}

}  // namespace

VocabCut vocab_cut(const VocabStatsArgs& a, int64_t row, int64_t begin, int64_t end) {
  VocabPart part = kEmptyPart;
  kernel.get()(a, row, begin, end, &part);
  return {part, logit_of(a, row, part.sample)};
}

void write_id_logits(const VocabStatsArgs& a, int64_t row, int64_t begin, int64_t end, float* credit_logits) {
  if (a.id_logits) logits_of(a, row, begin, end, a.ids + row * a.ids_per_row, a.ids_per_row, a.id_logits + row * a.ids_per_row);
  if (a.credit_rows && a.credit_rows[row] >= 0) logits_of(a, row, begin, end, a.credit_ids + a.credit_rows[row] * a.credit_slots, a.credit_slots, credit_logits);
}

void write_vocab_stats(const VocabStatsArgs& a, int64_t row, const VocabCut* cuts, int64_t count, const float* credit_logits) {
  VocabPart all = kEmptyPart;
  float sample_logit = -std::numeric_limits<float>::infinity();
  for (int64_t k = 0; k < count; ++k) {
    const double before = all.score;
    merge(all, cuts[k].part);
    if (all.score > before) sample_logit = cuts[k].sample_logit;
  }
  write_row(a, row, all, sample_logit, credit_logits);
}

void vocab_stats(const VocabStatsArgs& a) {
  const int64_t size = part_size(a.vocab);
  if (a.rows < num_threads() && a.vocab > size) {
    for (int64_t row = 0; row < a.rows; ++row) split_row(a, row, size);
    return;
  }
  const int64_t grain = std::max<int64_t>(1, 32768 / a.vocab);  // rows too short to share stay on one thread
  parallel_for(a.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) whole_row(a, row, size);
  });
}

}  // namespace fastdecode
