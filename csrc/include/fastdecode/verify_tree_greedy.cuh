// One thread walks one tree.
#pragma once

#include "fastdecode/platform.cuh"
#include "fastdecode/tree_walk.cuh"
#include "ops/cpu/verify_tree_greedy.h"

namespace fastdecode {

FD_KERNEL verify_tree_greedy_kernel(VerifyTreeGreedyArgs a) {
  const int64_t b = block_index() * block_size() + thread_index();
  if (b >= a.batch) return;
  const int64_t row = b * a.nodes;
  int32_t node = 0, child = 0, length = -1;
  for (int64_t i = 0; i < a.nodes; ++i) a.path[row + i] = -1;
  while (child >= 0) {
    node = child;
    a.path[row + ++length] = node;
    child = child_with(a.tokens + row, a.first_child + row, a.next_sibling + row, node, a.choice[row + node]);
  }
  a.accept_len[b] = length;
  a.next_token[b] = a.choice[row + node];
}

}  // namespace fastdecode
