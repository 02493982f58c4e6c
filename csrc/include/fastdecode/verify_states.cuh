// One block per draft of a sequence to write them, one per sequence to verify them.
#pragma once

#include "fastdecode/block.cuh"
#include "ops/cpu/verify_states.h"

namespace fastdecode {

FD_KERNEL draft_states_kernel(DraftStatesArgs a) {
  const int64_t b = block_index() / a.depth, k = block_index() % a.depth, count = draft_count(a, b), out = block_index() * a.length;
  if (k == 0 && thread_index() == 0) a.count[b] = int32_t(count);
  if (k >= count) return;
  for (int64_t p = thread_index(); p < a.length; p += block_size()) {
    a.draft_tokens[out + p] = a.tokens[b * a.length + p];
    a.draft_changed[out + p] = a.changed[b * a.length + p];
  }
  block_sync();
  for (int64_t r = a.begin[b] + thread_index(); r < a.begin[b + 1]; r += block_size()) {
    if (a.rank[r] < a.chosen[b] || a.rank[r] >= a.chosen[b] + k || a.position[r] < 0 || a.position[r] >= a.length) continue;
    a.draft_tokens[out + a.position[r]] = a.ints[2 * r + 1];
    a.draft_changed[out + a.position[r]] = int32_t(a.step);
  }
}

FD_KERNEL verify_states_kernel(VerifyStatesArgs a) {
  FD_SHARED(int32_t, sums, 32);
  const int64_t b = block_index(), count = a.count[b] < a.depth ? a.count[b] : a.depth;
  int64_t reached = 0;
  for (int64_t later = count - 1; later > reached;) {
    int32_t differ = 0;
    for (int64_t p = thread_index(); p < a.length; p += block_size()) differ += !state_agrees(a, b, later, reached, p);
    const bool follows = block_reduce(differ, sums, Add()) == 0;
    reached = follows ? later : reached;
    later = follows ? count - 1 : later - 1;
  }
  if (thread_index() == 0) a.reached[b] = int32_t(reached);
}

}  // namespace fastdecode
