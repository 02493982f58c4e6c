// Steps through a tree of drafts.
#pragma once

#include "fastdecode/platform.cuh"

namespace fastdecode {

// Child of `node` that carries `token`, -1 for none. The arrays belong to one tree.
FD_HD static inline int32_t child_with(const int32_t* tokens, const int32_t* first_child, const int32_t* next_sibling, int32_t node, int32_t token) {
  int32_t child = first_child[node];
  while (child >= 0 && tokens[child] != token) child = next_sibling[child];
  return child;
}

// Clears a row of the path; the caller synchronises before it writes nodes.
FD_DEVICE void clear_path(int32_t* path, int64_t nodes) {
  for (int64_t i = thread_index(); i < nodes; i += block_size()) path[i] = -1;
}

}  // namespace fastdecode
