// A few hundred candidates per sequence: sorting them is all the work there is, on every instruction set.
#include "ops/cpu/unmask_commit.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {

void check_candidates(const int32_t* begin, int64_t batch, int64_t rows) {
  for (int64_t b = 0; b < batch; ++b)
    if (begin[b] < 0 || begin[b] > begin[b + 1] || begin[b + 1] > rows) throw std::out_of_range("begin of sequence " + std::to_string(b) + " is " + std::to_string(begin[b]) + ", it must ascend within the " + std::to_string(rows) + " candidates");
}

namespace {

void check(const UnmaskCommitArgs& a) {
  check_candidates(a.begin, a.batch, a.rows);
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t r = a.begin[b]; r < a.begin[b + 1]; ++r)
      if (a.position[r] < 0 || a.position[r] >= a.stride || (r > a.begin[b] && a.position[r] <= a.position[r - 1]))
        throw std::out_of_range("position of candidate " + std::to_string(r) + " is " + std::to_string(a.position[r]) + ", it must ascend within the " + std::to_string(a.stride) + " columns of tokens");
    const int32_t* canvas = a.canvas ? a.canvas + 3 * b : nullptr;
    if (canvas && !(0 <= canvas[0] && canvas[0] <= canvas[1] && canvas[1] <= canvas[2] && canvas[2] <= a.stride))
      throw std::out_of_range("canvas of sequence " + std::to_string(b) + " is [" + std::to_string(canvas[0]) + ", " + std::to_string(canvas[1]) + ", " + std::to_string(canvas[2]) + "], it must ascend within the " + std::to_string(a.stride) + " columns of tokens");
  }
}

void write(const UnmaskCommitArgs& a, int64_t b, int64_t column, int32_t id) {
  a.tokens[b * a.stride + column] = id;
  a.changed[b * a.stride + column] = int32_t(a.step);
}

// Fills the masks of the canvas behind candidate `cut` with its token, and says how far the canvas has come.
void finish_canvas(const UnmaskCommitArgs& a, int64_t b, int64_t cut) {
  const int32_t *canvas = a.canvas + 3 * b, *changed = a.changed + b * a.stride, *tokens = a.tokens + b * a.stride;
  if (cut >= 0)
    for (int64_t p = std::max(canvas[0], a.position[cut] + 1); p < canvas[2]; ++p)
      if (changed[p] == kStillMasked) write(a, b, p, a.ints[2 * cut + 1]);
  int64_t mask = canvas[0], end = canvas[2];
  for (; mask < canvas[2] && changed[mask] != kStillMasked; ++mask)
    if (end == canvas[2] && changed[mask] >= 0 && ends_text(a, tokens[mask])) end = mask;
  a.finish[b] = canvas_finish(canvas, mask, end);
}

void commit_sequence(const UnmaskCommitArgs& a, int64_t b) {
  const int64_t begin = a.begin[b], end = a.begin[b + 1];
  for (int64_t r = begin; r < end; ++r) {
    a.scores[r] = unmask_score(a, b, r);
    a.rank[r] = int32_t(r);
  }
  int32_t* order = a.rank + begin;
  std::sort(order, a.rank + end, [&](int32_t x, int32_t y) { return unmask_better(a, x, y); });
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) {
    a.sorted[i] = a.scores[a.rank[i]];
    count += a.sorted[i] > -__builtin_inff();
  }
  const int64_t best = count == 0 ? 0 : std::min(count, std::max<int64_t>(a.quota[b], unmask_count(a, a.sorted + begin, count)));
  a.chosen[b] = 0;
  int64_t cut = -1;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = order[i];
    if (i >= best && !(a.accepted && a.accepted[r])) continue;
    write(a, b, a.position[r], a.ints[2 * r + 1]);
    ++a.chosen[b];
    if (cuts_text(a, r) && (cut < 0 || r < cut)) cut = r;
  }
  if (a.canvas) finish_canvas(a, b, cut);
}

}  // namespace

namespace scalar {

void unmask_commit(const UnmaskCommitArgs& a) {
  check(a);
  parallel_for(a.batch, 1 + 1024 * a.batch / std::max<int64_t>(1, a.rows), [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) {
      commit_sequence(a, b);
      // From the order to ranks, through the scratch that is free now.
      for (int64_t i = a.begin[b]; i < a.begin[b + 1]; ++i) a.sorted[a.rank[i]] = float(i - a.begin[b]);
      for (int64_t i = a.begin[b]; i < a.begin[b + 1]; ++i) a.rank[i] = int32_t(a.sorted[i]);
    }
  });
}

}  // namespace scalar

static const Kernel<void (*)(const UnmaskCommitArgs&)> kernel("unmask_commit", scalar::unmask_commit);
void unmask_commit(const UnmaskCommitArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
