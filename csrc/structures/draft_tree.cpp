#include "structures/draft_tree.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string>

namespace fastdecode {

int32_t DraftMerger::child(int32_t parent, int32_t token, float score) {
  if (parent >= 0) score = std::min(score, nodes_.scores[parent]);  // `best` keeps whole paths only if no score rises
  const uint64_t key = uint64_t(uint32_t(parent + 1)) << 32 | uint32_t(token);
  const auto [it, fresh] = child_of_.try_emplace(key, int32_t(nodes_.tokens.size()));
  if (fresh) nodes_.add(token, parent, score);
  else nodes_.scores[it->second] = std::max(nodes_.scores[it->second], score);
  return it->second;
}

void DraftMerger::add(const Draft& draft) {
  std::vector<int32_t> merged(draft.tokens.size());
  for (size_t i = 0; i < draft.tokens.size(); ++i) {
    const int32_t parent = draft.parents[i] < 0 ? -1 : merged[draft.parents[i]];
    merged[i] = child(parent, draft.tokens[i], draft.scores[i]);
  }
}

bool DraftMerger::add_chain(const int32_t* tokens, int64_t n, float score) {
  const size_t before = nodes_.tokens.size();
  int32_t parent = -1;
  for (int64_t i = 0; i < n; ++i, score *= 0.9f) parent = child(parent, tokens[i], score);
  return nodes_.tokens.size() > before;
}

Draft DraftMerger::best(int32_t max_nodes) const {
  std::vector<int32_t> order(nodes_.tokens.size());
  std::iota(order.begin(), order.end(), 0);
  // Ties go to the earlier node: parents precede their children, so the selection stays connected.
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return nodes_.scores[a] > nodes_.scores[b]; });
  if (int64_t(order.size()) > max_nodes) order.resize(std::max(0, max_nodes));
  std::sort(order.begin(), order.end());
  std::vector<int32_t> renamed(nodes_.tokens.size(), -1);
  Draft result;
  for (int32_t node : order) {
    const int32_t parent = nodes_.parents[node];
    renamed[node] = result.add(nodes_.tokens[node], parent < 0 ? -1 : renamed[parent], nodes_.scores[node]);
  }
  return result;
}

void write_tree_row(int32_t pending, const Draft& draft, int64_t nodes, int64_t words, TreeRow row) {
  std::vector<int32_t> last_child(nodes, -1);
  for (int64_t i = 0; i < nodes; ++i) {
    const bool drafted = i > 0 && i <= int64_t(draft.tokens.size());
    row.tokens[i] = i == 0 ? pending : drafted ? draft.tokens[i - 1] : pending;
    row.first_child[i] = row.next_sibling[i] = -1;
    int64_t* visible = row.ancestors + i * words;
    std::fill(visible, visible + words, 0);
    const int32_t parent = drafted ? draft.parents[i - 1] + 1 : -1;
    row.parents[i] = parent;
    row.depth[i] = parent < 0 ? 0 : row.depth[parent] + 1;
    if (parent >= 0) {
      for (int32_t s = row.first_child[parent]; s >= 0; s = row.next_sibling[s])
        if (row.tokens[s] == row.tokens[i])
          throw std::invalid_argument("siblings " + std::to_string(s - 1) + " and " + std::to_string(i - 1) + " of a draft both hold token " + std::to_string(row.tokens[i]) + ": give a node at most one child per token");
      std::copy(row.ancestors + parent * words, row.ancestors + (parent + 1) * words, visible);
      if (last_child[parent] < 0) row.first_child[parent] = int32_t(i);
      else row.next_sibling[last_child[parent]] = int32_t(i);
      last_child[parent] = int32_t(i);
    }
    visible[i / 64] |= int64_t(uint64_t(1) << (i % 64));
  }
}

}  // namespace fastdecode
