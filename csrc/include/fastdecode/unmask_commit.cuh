// One block per sequence. Ranks come from counting who is better, so that no order of threads can change them.
#pragma once

#include "fastdecode/block.cuh"
#include "ops/cpu/unmask_commit.h"

namespace fastdecode {

FD_KERNEL unmask_commit_kernel(UnmaskCommitArgs a) {
  FD_SHARED(int32_t, sums, 32);
  FD_SHARED(int32_t, best, 1);
  const int64_t b = block_index(), begin = a.begin[b], end = a.begin[b + 1];
  for (int64_t r = begin + thread_index(); r < end; r += block_size()) a.scores[r] = unmask_score(a, b, r);
  block_sync();
  int32_t candidates = 0;
  for (int64_t r = begin + thread_index(); r < end; r += block_size()) {
    int32_t better = 0;
    for (int64_t o = begin; o < end; ++o) better += a.scores[o] > a.scores[r] || (a.scores[o] == a.scores[r] && o < r);
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
  for (int64_t r = begin + thread_index(); r < end; r += block_size()) {
    if (!(a.scores[r] > -__builtin_inff()) || (a.rank[r] >= best[0] && !(a.accepted && a.accepted[r]))) continue;
    a.tokens[b * a.stride + a.position[r]] = a.ints[2 * r + 1];
    a.changed[b * a.stride + a.position[r]] = int32_t(a.step);
    ++chosen;
  }
  chosen = block_reduce(chosen, sums, Add());
  if (thread_index() == 0) a.chosen[b] = chosen;
}

}  // namespace fastdecode
