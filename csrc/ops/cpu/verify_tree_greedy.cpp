// Pointer chasing over at most N nodes: nothing to vectorise, one baseline implementation serves every instruction set.
#include "ops/cpu/verify_tree_greedy.h"

#include "ops/kernel.h"

namespace fastdecode {
namespace scalar {

void verify_tree_greedy(const VerifyTreeGreedyArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    const int64_t row = b * a.nodes;
    int32_t node = 0;
    int64_t length = 0;
    for (int64_t i = 0; i < a.nodes; ++i) a.path[row + i] = -1;
    while (true) {
      a.path[row + length] = node;
      int32_t child = a.first_child[row + node];
      while (child >= 0 && a.tokens[row + child] != a.choice[row + node]) child = a.next_sibling[row + child];
      if (child < 0) break;
      node = child;
      ++length;
    }
    a.accept_len[b] = int32_t(length);
    a.next_token[b] = a.choice[row + node];
  }
}

}  // namespace scalar

static const Kernel<void (*)(const VerifyTreeGreedyArgs&)> kernel("verify_tree_greedy", scalar::verify_tree_greedy);
void verify_tree_greedy(const VerifyTreeGreedyArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
