// Merging drafts into one trie, and the arrays that verification reads.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "structures/draft.h"

namespace fastdecode {

// Merges candidate drafts: equal paths become one node, so siblings always carry distinct tokens.
class DraftMerger {
 public:
  void add(const Draft& draft);
  // A chain of which every token keeps 9/10 of its parent's score. Returns whether it brought a new node.
  bool add_chain(const int32_t* tokens, int64_t n, float score);
  // The nodes of highest score, at most max_nodes; connected, because no node outranks its parent.
  Draft best(int32_t max_nodes) const;

 private:
  int32_t child(int32_t parent, int32_t token, float score);

  Draft nodes_;
  std::unordered_map<uint64_t, int32_t> child_of_;  // (parent + 1, token) -> node
};

// One row of verification arrays, N nodes wide; node 0 is the pending token, padding nodes see only themselves.
struct TreeRow {
  int32_t* tokens;
  int32_t* parents;
  int32_t* depth;
  int32_t* first_child;
  int32_t* next_sibling;
  int64_t* ancestors;  // [N, words], bit i of word i/64: node i is visible
};
void write_tree_row(int32_t pending, const Draft& draft, int64_t nodes, int64_t words, TreeRow row);

}  // namespace fastdecode
