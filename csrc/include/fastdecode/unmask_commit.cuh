// One block per sequence. Ranks come from counting who is better, so that no order of threads can change them.
#pragma once

#include "fastdecode/block.cuh"
#include "ops/cpu/unmask_commit.h"

namespace fastdecode {

struct Least {
  FD_HD int64_t operator()(int64_t a, int64_t b) const { return a < b ? a : b; }
};

FD_DEVICE void write_token(const UnmaskCommitArgs& a, int64_t b, int64_t column, int32_t id) {
  a.tokens[b * a.stride + column] = id;
  a.changed[b * a.stride + column] = int32_t(a.step);
}

// Fills the masks behind candidate `cut`, if it is below `rows`, with its token, and says how far the canvas has come.
FD_DEVICE void finish_canvas(const UnmaskCommitArgs& a, int64_t b, int64_t cut, SharedPtr<int64_t> scratch) {
  const int32_t *canvas = a.canvas + 3 * b, *changed = a.changed + b * a.stride;
  const int64_t first = canvas[0] < 0 ? 0 : canvas[0], last = canvas[2] < a.stride ? canvas[2] : a.stride;
  int64_t mask = last, end = last;
  for (int64_t p = first + thread_index(); p < last; p += block_size()) {
    if (changed[p] == kStillMasked && cut < a.rows && p > a.position[cut]) write_token(a, b, p, a.ints[2 * cut + 1]);
    if (changed[p] == kStillMasked && p < mask) mask = p;
    if (changed[p] >= 0 && changed[p] != kStillMasked && p < end && ends_text(a, a.tokens[b * a.stride + p])) end = p;
  }
  mask = block_reduce(mask, scratch, Least());
  end = block_reduce(end, scratch, Least());
  if (thread_index() == 0) a.finish[b] = canvas_finish(canvas, mask, end);
}

FD_KERNEL unmask_commit_kernel(UnmaskCommitArgs a) {
  FD_SHARED(int32_t, sums, 32);
  FD_SHARED(int32_t, best, 1);
  FD_SHARED(int64_t, columns, 32);
  const int64_t b = block_index(), begin = a.begin[b], end = a.begin[b + 1];
  for (int64_t r = begin + thread_index(); r < end; r += block_size()) a.scores[r] = unmask_score(a, b, r);
  block_sync();
  int32_t candidates = 0;
  for (int64_t r = begin + thread_index(); r < end; r += block_size()) {
    int32_t better = 0;
    for (int64_t o = begin; o < end; ++o) better += unmask_better(a, o, r);
    a.rank[r] = better;
    a.sorted[begin + better] = a.scores[r];
    candidates += a.scores[r] > -__builtin_inff();
  }
  const int32_t count = block_reduce(candidates, sums, Add());
  if (thread_index() == 0) {
    const int64_t wanted = count == 0 ? 0 : unmask_count(a, a.sorted + begin, count);
    const int64_t least = a.quota[b] > wanted ? a.quota[b] : wanted;
    best[0] = int32_t(least < count ? least : count);
  }
  block_sync();
  int32_t chosen = 0;
  int64_t cut = a.rows;
  for (int64_t r = begin + thread_index(); r < end; r += block_size()) {
    if (!(a.scores[r] > -__builtin_inff()) || (a.rank[r] >= best[0] && !(a.accepted && a.accepted[r]))) continue;
    write_token(a, b, a.position[r], a.ints[2 * r + 1]);
    ++chosen;
    if (r < cut && cuts_text(a, r)) cut = r;
  }
  chosen = block_reduce(chosen, sums, Add());
  if (thread_index() == 0) a.chosen[b] = chosen;
  if (!a.canvas) return;
  cut = block_reduce(cut, columns, Least());
  block_sync();  // the tokens above are read by all below
  finish_canvas(a, b, cut, columns);
}

}  // namespace fastdecode
