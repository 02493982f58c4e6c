// One block per row; the row of the result holds, one after the other, the counts of the prefix, the scores, the exponentials and the
// probabilities. Thread v mod block size owns column v, so only what crosses columns needs barriers.
//
// Masses are integers in units of 2^-38 of the largest exponential: sums are exact, the same for every thread order, and hold 2^25
// columns.
#pragma once

#include <cmath>

#include "fastdecode/block.cuh"
#include "fastdecode/crossing.cuh"
#include "fastdecode/elements.cuh"
#include "ops/cpu/process_probs.h"

namespace fastdecode {

constexpr uint32_t kSeen = 0x80000000u;  // flag beside the number of generated occurrences

struct RowTop {
  float value;
  int32_t id, nan;
};

struct MergeRowTops {
  FD_HD RowTop operator()(const RowTop& a, const RowTop& b) const {
    const bool a_leads = a.value > b.value || (a.value == b.value && uint32_t(a.id) < uint32_t(b.id));
    return RowTop{a_leads ? a.value : b.value, a_leads ? a.id : b.id, a.nan | b.nan};
  }
};

FD_HD static inline uint64_t fixed_mass(float exponential) { return uint64_t(exponential * 0x1p38f + 0.5f); }

// Leaves in the row, as bits, how often each token was generated and whether it was seen at all.
FD_DEVICE void count_prefix(const ProcessProbsArgs& a, int64_t row, float* out) {
  for (int64_t v = thread_index(); v < a.vocab; v += block_size()) out[v] = 0;
  block_sync();
  const int64_t begin = a.prefix_offsets[row], end = a.prefix_offsets[row + 1];
  const int64_t generated = begin + (a.generated_from && a.generated_from[row] > 0 ? a.generated_from[row] : 0);
  for (int64_t i = begin + thread_index(); i < end; i += block_size()) {
    const int32_t token = a.prefix[i];
    if (token < 0 || token >= a.vocab) continue;
    uint32_t* count = reinterpret_cast<uint32_t*>(out + token);
    atomic_or(count, kSeen);
    if (i >= generated) atomic_add(count, 1u);
  }
  block_sync();
}

// Logit after the penalties; `count` as count_prefix left it.
FD_HD static inline float penalised(const ProcessProbsArgs& a, int64_t row, float logit, uint32_t count) {
  if (!count) return logit;
  const float repetition = a.repetition_penalty ? a.repetition_penalty[row] : 1;
  logit = logit < 0 ? logit * repetition : logit / repetition;
  const uint32_t generated = count & ~kSeen;
  if (!generated) return logit;
  const float presence = a.presence_penalty ? a.presence_penalty[row] : 0, frequency = a.frequency_penalty ? a.frequency_penalty[row] : 0;
  return logit - (presence + frequency * float(generated));
}

// Writes the scores and returns the highest, with the lowest id among equals.
FD_DEVICE RowTop write_scores(const ProcessProbsArgs& a, int64_t row, float temperature, float* out, SharedPtr<RowTop> scratch) {
  const bool penalties = a.prefix != nullptr;
  if (penalties) count_prefix(a, row, out);
  RowTop top{-INFINITY, -1, 0};
  for (int64_t v = thread_index(); v < a.vocab; v += block_size()) {
    float x = element_at(a.logits, a.dtype, row * a.stride + v);
    if (penalties) x = penalised(a, row, x, bits_of(out[v]));
    if (temperature != 1) x /= temperature;
    out[v] = x;
    top.nan |= x != x;
    if (x > top.value) top.value = x, top.id = int32_t(v);
  }
  return block_reduce(top, scratch, MergeRowTops());
}

struct ScoreKey {
  const float* out;
  FD_HD uint32_t operator()(int64_t v) const { return descending_key(out[v], bits_of(out[v])); }
};

struct One {
  FD_HD uint64_t operator()(int64_t) const { return 1; }
};

// Exponentials are not negative: their bits are in order.
struct MassKey {
  const float* out;
  FD_HD uint32_t operator()(int64_t v) const { return bits_of(out[v]); }
};

// Mass of the exponentials that may belong to the smallest set.
struct Mass {
  const float* out;
  float bound;
  FD_HD uint64_t operator()(int64_t v) const { return out[v] < bound ? 0 : fixed_mass(out[v]); }
};

// Among the elements of one key: the lowest id first.
struct IdKey {
  FD_HD uint32_t operator()(int64_t v) const { return ~uint32_t(v); }
};

struct HasKey {
  const float* out;
  uint32_t key;
  FD_HD uint64_t operator()(int64_t v) const { return bits_of(out[v]) == key; }
};

// Scores -> exponentials relative to the highest score; what lies below the k-th highest becomes 0. Returns the mass.
FD_DEVICE uint64_t write_exponentials(int64_t vocab, float top, uint32_t lowest_key, float* out, SharedPtr<uint64_t> scratch) {
  uint64_t mass = 0;
  const ScoreKey key{out};
  for (int64_t v = thread_index(); v < vocab; v += block_size()) {
    const float d = out[v] - top;
    const float e = key(v) >= lowest_key && d > -87.33f ? expf(d) : 0;  // below, exp would be subnormal
    out[v] = e;
    mass += fixed_mass(e);
  }
  return block_reduce(mass, scratch, Add());
}

// Which exponentials stay: larger bits than `key`, or the same and an id up to `last`.
struct Kept {
  uint32_t key;
  int64_t last;
  float least;  // min-p
  FD_HD bool operator()(float e, int64_t v) const { return e >= least && (bits_of(e) > key || (bits_of(e) == key && v <= last)); }
};

// The fewest exponentials whose mass reaches top_p, the lowest ids among equals.
FD_DEVICE void keep_top_p(const float* out, int64_t vocab, float top_p, uint64_t mass, const CrossingScratch& s, Kept& kept) {
  // All exponentials below this bound together weigh less than 1 - top_p: none of them is in the set, and they need no atomics.
  const double bound = (1 - double(top_p)) * (double(mass) * 0x1p-38) / double(vocab) * (1 - 1e-6);
  const double wanted = ceil(double(top_p) * double(mass));
  const Crossing c = block_crossing(vocab, wanted >= 1 ? uint64_t(wanted) : 1, s, MassKey{out}, Mass{out, float(bound)});
  kept.key = c.key;
  const uint64_t each = fixed_mass(float_of_bits(c.key)), needed = (c.missing + each - 1) / each;
  if (needed * each < c.mass) kept.last = ~block_crossing(vocab, needed, s, IdKey(), HasKey{out, c.key}).key;
}

FD_KERNEL process_probs_kernel(ProcessProbsArgs a) {
  FD_SHARED(RowTop, tops, 32);
  FD_SHARED(uint64_t, sums, 32);
  FD_SHARED(uint64_t, histogram, kCrossingBins);
  FD_SHARED(Crossing, found, 1);
  const CrossingScratch scratch{histogram, sums, found};
  const int64_t row = block_index();
  float* out = a.probs + row * a.vocab;
  const float temperature = a.temperature ? a.temperature[row] : 1;
  const bool greedy = temperature == 0;
  const RowTop top = write_scores(a, row, greedy ? 1 : temperature, out, tops);
  const bool invalid = top.nan || top.value == -INFINITY || (!greedy && top.value == INFINITY);
  if (invalid || greedy) {
    for (int64_t v = thread_index(); v < a.vocab; v += block_size()) out[v] = invalid ? INFINITY - INFINITY : v == top.id ? 1 : 0;
    return;
  }
  const int64_t k = a.top_k ? a.top_k[row] : 0;
  const float top_p = a.top_p ? a.top_p[row] : 1, min_p = a.min_p ? a.min_p[row] : 0;
  uint32_t lowest_key = 0;
  if (k > 0 && k < a.vocab) lowest_key = block_crossing(a.vocab, uint64_t(k), scratch, ScoreKey{out}, One()).key;
  uint64_t mass = write_exponentials(a.vocab, top.value, lowest_key, out, sums);
  Kept kept{0, a.vocab, min_p > 0 ? min_p : 0};
  if (top_p < 1) keep_top_p(out, a.vocab, top_p, mass, scratch, kept);
  if (top_p < 1 || min_p > 0) {
    uint64_t own = 0;
    for (int64_t v = thread_index(); v < a.vocab; v += block_size())
      if (kept(out[v], v)) own += fixed_mass(out[v]);
    mass = block_reduce(own, sums, Add());
  }
  const float factor = float(0x1p38 / double(mass));
  for (int64_t v = thread_index(); v < a.vocab; v += block_size()) out[v] = kept(out[v], v) ? out[v] * factor : 0;
}

}  // namespace fastdecode
