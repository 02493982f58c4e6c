// Draft trees from a head that reads the target's hidden states, level by level (EAGLE-2 and 3, arXiv:2406.16858, arXiv:2503.01840).
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/transformer.h"
#include "structures/dynamic_tree.h"

namespace fastdecode {

// What is drafted for one row.
struct Growth {
  int32_t row, length;         // of the head's cache, and tokens in it
  std::vector<int32_t> text;   // that it is to read next; the tree stands behind it
  DynamicTree tree;
  int64_t levels;              // at most
  float least;                 // expected tokens that make a level worth its cost
  std::vector<float> covered;  // chance, level by level, that another draft is right up to there

  bool worthwhile() const;  // whether another level is allowed and promises enough
};

// The head is a transformer of one layer. With a norm of its own for tokens (EAGLE-3) it reads, beside each token, the features of the
// position before it, or what it made of that position itself; without one (EAGLE-1), both always as one row of `fusion`.
class TreeGrower {
 public:
  // vocabulary: the target's ids of the head's outputs. children: of a node, at most.
  TreeGrower(Transformer& head, std::vector<int32_t> vocabulary, int64_t children);

  int64_t features() const { return fuses() ? head_.fusion.inputs() : head_.config.width; }  // numbers that it reads of a position

  // Appends text to the head's cache: [n, F] features, of the position before every token.
  void read(KvCache& cache, int32_t row, int32_t length, const std::vector<int32_t>& text, const float* features);

  // The same for the texts of all rows, one after the other, and the trees behind them. Returns the seconds of a level behind the first, 0 if there was none.
  double grow(KvCache& cache, std::vector<Growth*> rows, const float* features);

 private:
  bool fuses() const { return !head_.layers[0].token_norm.empty(); }
  void run(KvCache& cache, const TokenSet& set, const float* features, bool of_text);

  Transformer& head_;
  std::vector<int32_t> vocabulary_;
  int64_t children_, ld_;
  std::vector<float> pairs_, outputs_, logits_, states_, scores_, child_scores_, scratch_;
  std::vector<int32_t> ids_;
};

}  // namespace fastdecode
