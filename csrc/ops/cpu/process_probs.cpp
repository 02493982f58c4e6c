// Top-k bounds the k-th largest score from below by the k-th largest tile maximum, lists what reaches the bound and selects
// in the list. Top-p lists the exponentials that are large enough to belong to the smallest set, and finds in the list where
// the mass crosses. Neither sorts.
#define FD_SIMD_NAMESPACE scalar
#include "ops/cpu/simd_scalar.h"
#include "ops/cpu/process_probs_body.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "ops/cpu/radix_crossing.h"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {

static const Kernel<const ProbsLoops*> kernel("process_probs", &scalar::probs_loops, FD_X86(&avx2::probs_loops), FD_X86(&avx512::probs_loops));

namespace {

int64_t tiles(int64_t vocab) { return (vocab + kTile - 1) / kTile; }

struct Scratch {
  float *tile_max, *tile_copy;  // [tiles]
  double* histogram;            // [kRadixBins]
  float* values;                // [V + kSpare] list
  int32_t* ids;                 // [V + kSpare]
  int32_t* counts;              // [V]
};

Scratch scratch_of(const ProcessProbsArgs& a, int thread) {
  float* base = a.scratch + thread * process_probs_scratch(a.vocab);
  Scratch s;
  s.histogram = reinterpret_cast<double*>(base);
  s.tile_max = base + 2 * kRadixBins;
  s.tile_copy = s.tile_max + tiles(a.vocab);
  s.values = s.tile_copy + tiles(a.vocab);
  s.ids = reinterpret_cast<int32_t*>(s.values + a.vocab + kSpare);
  s.counts = a.counts ? a.counts + thread * a.vocab : nullptr;
  return s;
}

// Repetition penalty (Keskar et al. 2019) over the whole prefix, once for each token; presence and frequency penalties over
// the generated part. `counts` holds the occurrences there, and -1 marks a token as done.
void penalise(const ProcessProbsArgs& a, int64_t row, float* x, int32_t* counts) {
  const int32_t* begin = a.prefix + a.prefix_offsets[row];
  const int32_t* end = a.prefix + a.prefix_offsets[row + 1];
  const int32_t* generated = begin + std::clamp<int64_t>(a.generated_from ? a.generated_from[row] : 0, 0, end - begin);
  const float repetition = a.repetition_penalty ? a.repetition_penalty[row] : 1;
  const float presence = a.presence_penalty ? a.presence_penalty[row] : 0, frequency = a.frequency_penalty ? a.frequency_penalty[row] : 0;
  const auto inside = [&](int32_t token) { return token >= 0 && token < a.vocab; };
  for (const int32_t* t = generated; t < end; ++t)
    if (inside(*t)) ++counts[*t];
  for (const int32_t* t = begin; t < end; ++t) {
    if (!inside(*t) || counts[*t] < 0) continue;
    float& logit = x[*t];
    logit = logit < 0 ? logit * repetition : logit / repetition;
    if (counts[*t] > 0) logit -= presence + frequency * float(counts[*t]);
    counts[*t] = -1;
  }
  for (const int32_t* t = begin; t < end; ++t)
    if (inside(*t)) counts[*t] = 0;
}

// Lists the scores that are at least the k-th largest one; returns how many.
int64_t list_top_k(const ProcessProbsArgs& a, const ProbsLoops& loops, const float* scores, int64_t k, const Scratch& s) {
  const int64_t count = tiles(a.vocab);
  float bound = -std::numeric_limits<float>::infinity();
  if (k <= count) {
    std::copy(s.tile_max, s.tile_max + count, s.tile_copy);
    std::nth_element(s.tile_copy, s.tile_copy + (k - 1), s.tile_copy + count, std::greater<float>());
    bound = s.tile_copy[k - 1];
  }
  int64_t n = 0;
  for (int64_t t = 0; t < count; ++t) {
    if (s.tile_max[t] < bound) continue;
    const int64_t begin = t * kTile;
    n += loops.collect(scores + begin, std::min(kTile, a.vocab - begin), int32_t(begin), bound, s.values + n, s.ids + n);
  }
  const Crossing c = radix_crossing(n, double(k), s.histogram, [&](int64_t i) { return descending_key(s.values[i]); }, [](int64_t) { return 1.0; });
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i)
    if (descending_key(s.values[i]) >= c.key) s.values[kept] = s.values[i], s.ids[kept++] = s.ids[i];
  return kept;
}

// Drops from the list of exponentials what top-p excludes; ids ascend, so among equals the lowest ones stay.
int64_t keep_top_p(float top_p, double total, int64_t n, const Scratch& s) {
  const double target = double(top_p) * total;
  const Crossing c = radix_crossing(n, target, s.histogram, [&](int64_t i) { return bits_of_float(s.values[i]); }, [&](int64_t i) { return double(s.values[i]); });
  const double each = double(float_from_bits(c.key));
  double equal = each > 0 ? std::max(1.0, std::ceil((target - c.before) / each * (1 - 1e-12))) : 1;
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t key = bits_of_float(s.values[i]);
    if (key < c.key || (key == c.key && equal-- <= 0)) continue;
    s.values[kept] = s.values[i];
    s.ids[kept++] = s.ids[i];
  }
  return kept;
}

int64_t keep_min_p(float min_p, int64_t n, const Scratch& s) {  // the largest exponential is 1
  int64_t kept = 0;
  for (int64_t i = 0; i < n; ++i)
    if (s.values[i] >= min_p) s.values[kept] = s.values[i], s.ids[kept++] = s.ids[i];
  return kept;
}

void scatter(const ProcessProbsArgs& a, float* out, int64_t n, const Scratch& s) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(s.values[i]);
  std::fill(out, out + a.vocab, 0.0f);
  for (int64_t i = 0; i < n; ++i) out[s.ids[i]] = float(double(s.values[i]) / sum);
}

void one_hot(float* out, int64_t vocab, float row_max) {
  const int64_t best = std::find(out, out + vocab, row_max) - out;
  std::fill(out, out + vocab, 0.0f);
  out[best] = 1;
}

void process_row(const ProcessProbsArgs& a, const ProbsLoops& loops, int64_t row, const Scratch& s) {
  float* out = a.probs + row * a.vocab;
  const void* source = static_cast<const char*>(a.logits) + row * a.stride * bytes_of(a.dtype);
  int dtype = a.dtype;
  if (s.counts) {
    loops.scale(source, dtype, a.vocab, 1, out, s.tile_max);
    penalise(a, row, out, s.counts);
    source = out, dtype = kFloat32;
  }
  const float temperature = a.temperature ? a.temperature[row] : 1;
  const bool greedy = temperature == 0;
  const RowMax most = loops.scale(source, dtype, a.vocab, greedy ? 1 : temperature, out, s.tile_max);
  if (most.nan || most.value == -std::numeric_limits<float>::infinity() || (!greedy && !std::isfinite(most.value)))
    return std::fill(out, out + a.vocab, std::numeric_limits<float>::quiet_NaN());
  if (greedy) return one_hot(out, a.vocab, most.value);

  const int64_t k = a.top_k ? std::min<int64_t>(a.top_k[row], a.vocab) : 0;
  const float top_p = a.top_p ? a.top_p[row] : 1, min_p = a.min_p ? a.min_p[row] : 0;
  int64_t n;
  double total;
  if (k > 0 && k < a.vocab) {
    n = list_top_k(a, loops, out, k, s);
    total = loops.exponentials(s.values, n, most.value);
  } else {
    total = loops.exponentials(out, a.vocab, most.value);
    if (!(top_p < 1) && !(min_p > 0)) return loops.multiply(out, a.vocab, float(1 / total));
    // All exponentials below this bound together weigh less than 1 - top_p: none of them is in the smallest set.
    const double bound = top_p < 1 ? (1 - double(top_p)) * total / double(a.vocab) * (1 - 1e-6) : double(min_p);
    n = loops.collect(out, a.vocab, 0, float(bound), s.values, s.ids);
  }
  if (top_p < 1) n = keep_top_p(top_p, total, n, s);
  if (min_p > 0) n = keep_min_p(min_p, n, s);
  scatter(a, out, n, s);
}

}  // namespace

int64_t process_probs_scratch(int64_t vocab) {
  const int64_t floats = 2 * kRadixBins + 2 * tiles(vocab) + 2 * (vocab + kSpare);
  return (floats + 15) / 16 * 16;
}

void process_probs(const ProcessProbsArgs& a) {
  parallel_for(a.rows, std::max<int64_t>(1, 8192 / a.vocab), [&](int64_t begin, int64_t end, int thread) {
    const Scratch s = scratch_of(a, thread);
    for (int64_t row = begin; row < end; ++row) process_row(a, *kernel.get(), row, s);
  });
}

}  // namespace fastdecode
