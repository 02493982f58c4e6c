#pragma once

#include <cstdint>

namespace fastdecode {

// Recursive rejection down a tree whose children were drawn from a draft law.
struct VerifyTreeRecursiveArgs {
  const int32_t* tokens;        // [B, N] node 0 is the root
  const int32_t* first_child;   // [B, N] -1: none
  const int32_t* next_sibling;  // [B, N] -1: none; without `draws` siblings stand in the order they were drawn
  const float* p;               // [B, N, V] the target's law after each node
  const float* q;               // [B, N, V] law the children of each node were drawn from
  const int64_t* key;           // [B, 4]
  const int32_t* draw_offsets;  // [B, N + 1] or null: the draws of node i are draw_tokens[offset i ... offset i + 1)
  const int32_t* draw_tokens;   // flat, or null
  int64_t batch, nodes, vocab, draws;  // draws: length of draw_tokens
  int replacement;              // nonzero: i.i.d. draws
  double* workspace;            // [B, V]
  int32_t* path;                // [B, N]
  int32_t* accept_len;          // [B]
  int32_t* next_token;          // [B]
};

void verify_tree_recursive(const VerifyTreeRecursiveArgs& args);

}  // namespace fastdecode
