// A draft tree that grows by levels (EAGLE-2, arXiv:2406.16858): a pool of candidates, of which the best of every level become nodes
// that a head goes on from.
#pragma once

#include <cstdint>
#include <vector>

#include "structures/draft.h"

namespace fastdecode {

class DynamicTree {
 public:
  // width: nodes of a level; candidates below min_score are dropped, those below `open_score` do not become nodes.
  DynamicTree(int32_t width, float min_score, float open_score = 0) : width_(width), min_score_(min_score), open_score_(open_score) {}

  // The next level's candidates: ids (columns of `vocabulary`, -1: none) and path scores [nodes of the last level, k]. Throws
  // std::invalid_argument if an id is not one of `columns` many.
  void add(const int32_t* ids, const float* scores, int64_t k, const int32_t* vocabulary, int64_t columns);
  // Chance that the next level would begin behind an accepted token: the scores of the nodes that `open` makes. 1 before the first level.
  float promised() const;
  int64_t levels() const { return levels_; }

  // Makes the best of the last candidates nodes. Returns, for each, the place of its parent among the nodes of the level above.
  std::vector<int32_t> open();
  std::vector<float> open_scores() const;  // of the nodes of the last level
  const std::vector<int32_t>& tokens() const { return tokens_; }    // of all nodes, and
  const std::vector<int32_t>& parents() const { return parents_; }  // their parents, -1: behind the text
  const Draft& candidates() const { return pool_; }

 private:
  int32_t width_;
  float min_score_, open_score_;
  Draft pool_;
  std::vector<int32_t> node_of_;         // by candidate, -1: none
  std::vector<int32_t> next_, frontier_; // candidates: best of the last level; nodes of the last level (before any: empty)
  std::vector<int32_t> tokens_, parents_;
  int64_t levels_ = 0;
};

}  // namespace fastdecode
