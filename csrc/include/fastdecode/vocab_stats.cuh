// One block per row. A thread takes groups of four columns, which share one Philox call, and keeps the statistics of its own groups;
// one reduction merges them. Sums and scores are double, the exponentials float, as on the CPU.
#pragma once

#include <cmath>

#include "fastdecode/block.cuh"
#include "fastdecode/elements.cuh"
#include "ops/cpu/vocab_credit.h"

namespace fastdecode {

FD_HD static inline VocabPart empty_part() { return VocabPart{-INFINITY, -INFINITY, -1, -1, 0, 0, -double(INFINITY), -1, false}; }

// Order of tokens: the higher logit, among equals the lower id; -1, the id of nobody, comes last.
FD_HD static inline bool comes_first(float a, int32_t id_a, float b, int32_t id_b) { return a > b || (a == b && uint32_t(id_a) < uint32_t(id_b)); }

FD_HD static inline bool is_finite(float x) { return x > -INFINITY && x < INFINITY; }

struct MergeVocabParts {
  // The sums of a part, relative to a larger maximum.
  FD_HD static void rebase(const VocabPart& part, float top, double& sum, double& weighted) {
    if (!(part.sum > 0)) return;
    const double shift = double(part.top1) - double(top), scale = shift == 0 ? 1 : exp(shift);
    if (scale > 0) sum += scale * part.sum, weighted += scale * (part.weighted + shift * part.sum);
  }

  // Symmetric bit for bit: every thread of the butterfly gets the same result. Fields are selected one by one, a reference to one of
  // the parts would force both into memory.
  FD_HD VocabPart operator()(const VocabPart& a, const VocabPart& b) const {
    const bool a_leads = comes_first(a.top1, a.id1, b.top1, b.id1);
    VocabPart m = empty_part();
    m.top1 = a_leads ? a.top1 : b.top1, m.id1 = a_leads ? a.id1 : b.id1;
    m.top2 = a_leads ? a.top2 : b.top2, m.id2 = a_leads ? a.id2 : b.id2;
    const float other = a_leads ? b.top1 : a.top1;
    const int32_t other_id = a_leads ? b.id1 : a.id1;
    if (!comes_first(m.top2, m.id2, other, other_id)) m.top2 = other, m.id2 = other_id;
    if (is_finite(m.top1)) rebase(a, m.top1, m.sum, m.weighted), rebase(b, m.top1, m.sum, m.weighted);
    const bool a_wins = a.score > b.score || (a.score == b.score && uint32_t(a.sample) < uint32_t(b.sample));
    m.score = a_wins ? a.score : b.score;
    m.sample = a_wins ? a.sample : b.sample;
    m.nan = a.nan || b.nan;
    return m;
  }
};

// Gumbel-max sampling of one row, see ops/cpu/gumbel.h. A float bound turns most tokens away before a logarithm is taken.
struct VocabDraw {
  Stream stream;
  double temperature;
  float inverse;
  bool on;
};

FD_HD static inline VocabDraw vocab_draw(const VocabStatsArgs& a, int64_t row) {
  VocabDraw draw{{0, 0, 0, 0}, 0, 0, false};
  if (!a.key || !(a.temperature[row] > 0)) return draw;
  draw.on = true;
  draw.temperature = double(a.temperature[row]);
  draw.inverse = 1 / a.temperature[row];
  draw.stream = make_stream(a.key + 4 * row);
  return draw;
}

// The score that a token must reach, lowered by more than the bounds below can be off in float.
FD_HD static inline float score_bar(double score) { return float(score - (1e-3 + 1e-6 * fabs(score))); }

// E >= u >= 2^(-1 - leading zeros of the high word), and E >= 2^-65 always. Written so that NaN, from 0 * inf, passes.
FD_HD static inline bool score_may_reach(const VocabDraw& draw, float logit, uint32_t high, float bar) {
  const float log_bound = high ? float(1 + leading_zeros(high)) * 0.6931472f : 46.0f;
  return !(logit * draw.inverse + log_bound < bar);
}

FD_HD static inline void draw_group(const VocabDraw& draw, const float* x, float largest, int64_t begin, VocabPart& part) {
  float bar = score_bar(part.score);
  if (!score_may_reach(draw, largest, 0, bar)) return;
  const Words high = philox4x32(Words{{uint32_t(begin >> 2), 0, draw.stream.counter2, draw.stream.counter3}}, draw.stream.key0, draw.stream.key1);
  for (int j = 0; j < 4; ++j) {
    if (x[j] == -INFINITY || !score_may_reach(draw, x[j], high.w[j], bar)) continue;
    const uint32_t token = uint32_t(begin + j);
    const double score = double(x[j]) / draw.temperature - log(-log1p(-uniform_from_bits(high.w[j], stream_bits(draw.stream, token, 1))));
    if (!(score > part.score)) continue;  // tokens come in ascending order: the first of equals stays
    part.score = score, part.sample = int32_t(token);
    bar = score_bar(score);
  }
}

// Columns begin ... begin + 3; what is banned or beyond the row is -inf.
FD_HD static inline void load_columns(const VocabStatsArgs& a, int64_t row, int64_t begin, bool aligned, float* x) {
  const int64_t at = row * a.stride + begin;
  if (begin + 4 <= a.vocab) {
    load_group<4>(a.logits, a.dtype, at, aligned, x);
  } else {
    for (int j = 0; j < 4; ++j) x[j] = begin + j < a.vocab ? element_at(a.logits, a.dtype, at + j) : -INFINITY;
  }
  for (int64_t i = 0; i < a.banned_count; ++i)
    for (int j = 0; j < 4; ++j)
      if (a.banned[i] == begin + j) x[j] = -INFINITY;
}

FD_HD static inline void offer_columns(const float* x, int64_t begin, VocabPart& p) {
  for (int j = 0; j < 4; ++j) {
    if (x[j] > p.top1) {
      p.top2 = p.top1, p.id2 = p.id1;
      p.top1 = x[j], p.id1 = int32_t(begin + j);
    } else if (x[j] > p.top2) {
      p.top2 = x[j], p.id2 = int32_t(begin + j);
    }
  }
}

FD_HD static inline void add_columns(const float* x, float before, VocabPart& p) {
  if (before < p.top1 && p.sum > 0) {
    const double shift = double(before) - double(p.top1), scale = exp(shift);
    p.weighted = scale * (p.weighted + shift * p.sum);
    p.sum *= scale;
  }
  float sum = 0, weighted = 0;
  for (int j = 0; j < 4; ++j) {
    const float d = x[j] - p.top1;
    if (!(d > -87.33f)) continue;  // exp would be subnormal
    const float e = expf(d);
    sum += e;
    weighted = fmaf(d, e, weighted);
  }
  p.sum += double(sum);
  p.weighted += double(weighted);
}

FD_HD static inline float logit_of(const VocabStatsArgs& a, int64_t row, int32_t id) {
  bool hidden = id < 0 || id >= a.vocab;
  for (int64_t i = 0; i < a.banned_count; ++i) hidden |= a.banned[i] == id;
  return hidden ? -INFINITY : element_at(a.logits, a.dtype, row * a.stride + id);
}

// Logits of the tokens that have credit.
struct CreditedLogits {
  const VocabStatsArgs& a;
  int64_t row;
  FD_HD float operator[](int64_t k) const { return logit_of(a, row, a.credit_ids[a.credit_rows[row] * a.credit_slots + k]); }
};

FD_HD static inline void write_vocab_row(const VocabStatsArgs& a, int64_t row, const VocabPart& p) {
  const float nan = INFINITY - INFINITY;
  float* f = a.floats + row * kVocabColumns;
  int32_t* ids = a.ints + row * 2;
  const bool finite = is_finite(p.top1), drawn = p.sample >= 0 && p.top1 < INFINITY;
  const double entropy = finite ? log(p.sum) - p.weighted / p.sum : 0;
  ids[0] = p.nan ? -1 : p.id1;
  ids[1] = p.nan ? -1 : drawn ? p.sample : p.id1;
  f[kTop1] = p.nan ? nan : p.top1;
  f[kTop2] = p.nan ? nan : p.top2;
  f[kSecond] = p.nan ? -1.0f : float(p.id2);
  f[kLogSumExp] = p.nan ? nan : finite ? float(double(p.top1) + log(p.sum)) : p.top1;
  f[kEntropy] = p.nan || !finite ? nan : float(entropy > 0 ? entropy : 0);
  f[kSampleLogit] = p.nan ? nan : ids[1] < 0 ? -INFINITY : element_at(a.logits, a.dtype, row * a.stride + ids[1]);
  for (int i = kSampleLogit + 1; i < kVocabColumns; ++i) f[i] = 0;
  if (a.credit_rows) add_credit(a, row, CreditedLogits{a, row});
}

FD_KERNEL vocab_stats_kernel(VocabStatsArgs a) {
  FD_SHARED(VocabPart, parts, 32);
  const int64_t row = block_index();
  const bool aligned = groups_aligned<4>(a.logits, a.dtype, a.stride);
  const VocabDraw draw = vocab_draw(a, row);
  VocabPart part = empty_part();
  for (int64_t begin = 4 * int64_t(thread_index()); begin < a.vocab; begin += 4 * int64_t(block_size())) {
    float x[4];
    load_columns(a, row, begin, aligned, x);
    const float largest = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3])), before = part.top1;
    for (int j = 0; j < 4; ++j) part.nan |= x[j] != x[j];
    if (largest > part.top2) offer_columns(x, begin, part);
    if (!is_finite(part.top1)) continue;  // nothing yet, or settled by +inf
    add_columns(x, before, part);
    if (draw.on) draw_group(draw, x, largest, begin, part);
  }
  part = block_reduce(part, parts, MergeVocabParts());
  if (thread_index() == 0) write_vocab_row(a, row, part);
  if (!a.id_logits) return;
  for (int64_t k = thread_index(); k < a.ids_per_row; k += block_size()) a.id_logits[row * a.ids_per_row + k] = logit_of(a, row, a.ids[row * a.ids_per_row + k]);
}

}  // namespace fastdecode
