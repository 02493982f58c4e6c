// One block walks one tree; all threads race over the row of each visited node and then follow the same child.
#pragma once

#include "fastdecode/keys.cuh"
#include "fastdecode/residual.cuh"
#include "fastdecode/tree_walk.cuh"
#include "ops/cpu/verify_tree_point.h"

namespace fastdecode {

FD_KERNEL verify_tree_point_kernel(VerifyTreePointArgs a) {
  FD_SHARED(Race, races, 32);
  FD_SHARED(double, sums, 32);
  const RowScratch scratch{races, sums};
  const int64_t b = block_index(), row = b * a.nodes;
  clear_path(a.path + row, a.nodes);
  block_sync();
  int32_t node = 0, child = 0, drawn = -1, depth = -1;
  while (child >= 0) {
    node = child;
    ++depth;
    if (thread_index() == 0) a.path[row + depth] = node;
    drawn = block_race(ResidualWeight{a.probs + (row + node) * a.vocab, nullptr, 1}, a.vocab, node_stream(a.key + 4 * b, depth), scratch);
    child = drawn < 0 ? -1 : child_with(a.tokens + row, a.first_child + row, a.next_sibling + row, node, drawn);
  }
  if (thread_index() == 0) a.accept_len[b] = depth, a.next_token[b] = drawn;
}

}  // namespace fastdecode
