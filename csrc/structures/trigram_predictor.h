// Which tokens follow which two, learnt while text is written, and a search for the continuations that are worth a place in a draft
// (ADED, arXiv:2407.12021).
#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "structures/draft.h"

namespace fastdecode {

struct TrigramSettings {
  float step = 0.04f;     // weight that an occurrence adds,
  float most = 3.0f;      // up to this
  int32_t successors = 12;   // of a pair; the lightest makes room
  int64_t pairs = 1 << 18;   // the oldest makes room
  int32_t iterations = 150;  // of a search
};

class TrigramPredictor {
 public:
  struct Successor {
    int32_t token;
    float weight;
  };

  explicit TrigramPredictor(TrigramSettings settings) : settings_(settings) {}
  // Every three tokens in a row.
  void learn(const int32_t* tokens, int64_t n);
  // One possible successor of two tokens.
  void add(int32_t first, int32_t second, int32_t token, float weight);
  // What probably follows two tokens: nodes that a search with upper confidence bounds (PUCT) visits most often, scored by the
  // shares of their weights. The same map and seed give the same draft.
  Draft propose(int32_t first, int32_t second, int32_t max_nodes, int32_t max_depth, double min_score, uint64_t seed) const;

  int64_t size() const { return int64_t(map_.size()); }
  const std::vector<Successor>* successors(int32_t first, int32_t second) const;
  // Rows (first, second, token) and weights of everything that is known, in the order of learning.
  void dump(std::vector<int32_t>* tokens, std::vector<float>* weights) const;

 private:
  static uint64_t key(int32_t first, int32_t second) { return uint64_t(uint32_t(first)) << 32 | uint32_t(second); }

  TrigramSettings settings_;
  std::unordered_map<uint64_t, std::vector<Successor>> map_;
  std::deque<uint64_t> order_;  // of the pairs, by their first occurrence
};

}  // namespace fastdecode
