// A draft for one request: a forest of tokens below the pending token, in topological order.
#pragma once

#include <cstdint>
#include <vector>

namespace fastdecode {

struct Draft {
  std::vector<int32_t> tokens;
  std::vector<int32_t> parents;  // index of the parent in this draft, -1: child of the pending token
  std::vector<float> scores;     // estimated chance that the whole path up to the node is accepted; never above the parent's

  int32_t add(int32_t token, int32_t parent, float score) {
    tokens.push_back(token);
    parents.push_back(parent);
    scores.push_back(score);
    return int32_t(tokens.size()) - 1;
  }
};

}  // namespace fastdecode
