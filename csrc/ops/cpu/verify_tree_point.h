#pragma once

#include <cstdint>

namespace fastdecode {

// Draws the target's token at each visited node and walks to the child that carries it.
struct VerifyTreePointArgs {
  const int32_t* tokens;        // [B, N] node 0 is the root
  const int32_t* first_child;   // [B, N] -1: none
  const int32_t* next_sibling;  // [B, N] -1: none
  const float* probs;           // [B, N, V] only the rows of visited nodes are read
  const int64_t* key;           // [B, 4] word 2 belongs to the root; a node of depth d uses word 2 + d
  int64_t batch, nodes, vocab;
  int32_t* path;        // [B, N] visited nodes, root first, padded with -1
  int32_t* accept_len;  // [B]
  int32_t* next_token;  // [B] -1: the last visited row has no mass, or holds NaN or infinity
};

void verify_tree_point(const VerifyTreePointArgs& args);

}  // namespace fastdecode
