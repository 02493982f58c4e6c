#pragma once

#include <cstdint>

namespace fastdecode {

// The k most probable children of draft nodes, and what their paths are worth.
struct TreeExpandArgs {
  const void* logits;    // [R, V] rows `stride` elements apart
  int64_t rows, vocab, stride;
  int64_t dtype;
  const float* scores;   // [R] of the nodes
  int64_t k;
  int32_t* ids;          // [R, k] out, in descending order of logits, the lowest id first among equals; -1 where there is none
  float* child_scores;   // [R, k] out: score of the node times the child's probability
  float* scratch;        // [threads, tree_expand_scratch(V)]; CPU only
};

constexpr int64_t kMaxChildren = 64;

int64_t tree_expand_scratch(int64_t vocab);
void tree_expand(const TreeExpandArgs& args);

}  // namespace fastdecode
