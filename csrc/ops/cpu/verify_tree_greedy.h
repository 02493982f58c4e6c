#pragma once

#include <cstdint>

namespace fastdecode {

// Walks each tree from its root along the children that carry the target's own choice.
struct VerifyTreeGreedyArgs {
  const int32_t* tokens;        // [B, N] node 0 is the root
  const int32_t* first_child;   // [B, N] -1: none
  const int32_t* next_sibling;  // [B, N] -1: none
  const int32_t* choice;        // [B, N] the target's token after each node
  int64_t batch, nodes;
  int32_t* path;        // [B, N] visited nodes, root first, padded with -1
  int32_t* accept_len;  // [B] accepted draft tokens
  int32_t* next_token;  // [B] the target's token after the last visited node
};

void verify_tree_greedy(const VerifyTreeGreedyArgs& args);

}  // namespace fastdecode
