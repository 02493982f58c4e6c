#include "structures/dynamic_tree.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace fastdecode {

void DynamicTree::add(const int32_t* ids, const float* scores, int64_t k, const int32_t* vocabulary, int64_t columns) {
  const int64_t parents = levels_ ? int64_t(frontier_.size()) : 1;
  const int32_t first = int32_t(pool_.tokens.size());
  for (int64_t i = 0; i < parents * k; ++i) {
    if (ids[i] >= columns) throw std::invalid_argument("candidate " + std::to_string(ids[i]) + " is outside the draft vocabulary 0 .. " + std::to_string(columns - 1));
    if (ids[i] < 0 || !(scores[i] > 0) || scores[i] < min_score_) continue;
    pool_.add(vocabulary[ids[i]], levels_ ? frontier_[i / k] : -1, scores[i]);
  }
  next_.resize(pool_.tokens.size() - first);
  std::iota(next_.begin(), next_.end(), first);
  std::stable_sort(next_.begin(), next_.end(), [&](int32_t a, int32_t b) { return pool_.scores[a] > pool_.scores[b]; });
  if (int64_t(next_.size()) > width_) next_.resize(width_);
  while (!next_.empty() && pool_.scores[next_.back()] < open_score_) next_.pop_back();
  std::sort(next_.begin(), next_.end());
  node_of_.resize(pool_.tokens.size(), -1);
  ++levels_;
}

float DynamicTree::promised() const {
  if (levels_ == 0) return 1;
  return std::accumulate(next_.begin(), next_.end(), 0.0f, [&](float sum, int32_t c) { return sum + pool_.scores[c]; });
}

std::vector<int32_t> DynamicTree::open() {
  std::vector<int32_t> above;
  for (int32_t candidate : next_) {
    const int32_t parent = pool_.parents[candidate];
    above.push_back(parent < 0 ? 0 : int32_t(std::find(frontier_.begin(), frontier_.end(), parent) - frontier_.begin()));
    node_of_[candidate] = int32_t(tokens_.size());
    tokens_.push_back(pool_.tokens[candidate]);
    parents_.push_back(parent < 0 ? -1 : node_of_[parent]);
  }
  frontier_ = next_;
  return above;
}

std::vector<float> DynamicTree::open_scores() const {
  std::vector<float> scores;
  for (int32_t candidate : frontier_) scores.push_back(pool_.scores[candidate]);
  return scores;
}

}  // namespace fastdecode
