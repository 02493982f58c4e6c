// The k-th largest maximum of a tile bounds the k-th largest logit from below: what reaches it is listed, and only the list is sorted.
#include "ops/cpu/tree_expand.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/convert.h"
#include "ops/cpu/process_probs.h"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {

static const Kernel<const ProbsLoops*> kernel("tree_expand", &scalar::probs_loops, FD_X86(&avx2::probs_loops), FD_X86(&avx512::probs_loops));

namespace {

int64_t tiles(int64_t vocab) { return (vocab + kTile - 1) / kTile; }

// Lists the logits that are at least the k-th largest; returns how many.
int64_t list_largest(const ProbsLoops& loops, const float* x, int64_t vocab, int64_t k, float* tile_max, float* values, int32_t* ids) {
  const int64_t count = tiles(vocab);
  float* sorted = tile_max + count;
  float bound = std::numeric_limits<float>::lowest();  // -inf has no probability
  if (k <= count) {
    std::copy(tile_max, tile_max + count, sorted);
    std::nth_element(sorted, sorted + (k - 1), sorted + count, std::greater<float>());
    bound = std::max(bound, sorted[k - 1]);
  }
  int64_t n = 0;
  for (int64_t t = 0; t < count; ++t)
    if (tile_max[t] >= bound) n += loops.collect(x + t * kTile, std::min(kTile, vocab - t * kTile), int32_t(t * kTile), bound, values + n, ids + n);
  return n;
}

void expand_row(const TreeExpandArgs& a, const ProbsLoops& loops, int64_t row, float* scratch) {
  float *x = scratch, *tile_max = x + a.vocab + kTile, *values = tile_max + 2 * tiles(a.vocab);
  int32_t *ids = reinterpret_cast<int32_t*>(values + a.vocab + kSpare), *out = a.ids + row * a.k;
  float* scores = a.child_scores + row * a.k;
  std::fill(out, out + a.k, -1);
  std::fill(scores, scores + a.k, 0.0f);
  const void* logits = static_cast<const char*>(a.logits) + row * a.stride * bytes_of(int(a.dtype));
  const RowMax most = loops.scale(logits, int(a.dtype), a.vocab, 1, x, tile_max);
  if (most.nan || !std::isfinite(most.value)) return;
  const int64_t n = list_largest(loops, x, a.vocab, a.k, tile_max, values, ids), kept = std::min(n, a.k);
  int32_t* order = ids + a.vocab + kSpare;
  for (int64_t i = 0; i < n; ++i) order[i] = int32_t(i);
  std::partial_sort(order, order + kept, order + n, [&](int32_t i, int32_t j) { return values[i] > values[j] || (values[i] == values[j] && i < j); });
  const double factor = double(a.scores[row]) / loops.exponentials(x, a.vocab, most.value);
  for (int64_t i = 0; i < kept; ++i) {
    out[i] = ids[order[i]];
    scores[i] = float(factor * std::exp(double(values[order[i]]) - double(most.value)));
  }
}

}  // namespace

int64_t tree_expand_scratch(int64_t vocab) { return (2 * tiles(vocab) + 4 * (vocab + kSpare) + 15) / 16 * 16; }

void tree_expand(const TreeExpandArgs& a) {
  parallel_for(a.rows, std::max<int64_t>(1, 16384 / a.vocab), [&](int64_t begin, int64_t end, int thread) {
    for (int64_t row = begin; row < end; ++row) expand_row(a, *kernel.get(), row, a.scratch + thread * tree_expand_scratch(a.vocab));
  });
}

}  // namespace fastdecode
