#include "ops/cpu/verify_tree_point.h"

#include "fastdecode/keys.cuh"
#include "ops/cpu/residual.h"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace {

void verify_row(const VerifyTreePointArgs& a, int64_t b) {
  const int64_t row = b * a.nodes;
  int32_t node = 0, drawn;
  int64_t depth = 0;
  for (int64_t i = 0; i < a.nodes; ++i) a.path[row + i] = -1;
  while (true) {
    a.path[row + depth] = node;
    drawn = race_row({a.probs + (row + node) * a.vocab, nullptr, 1, a.vocab}, node_stream(a.key + 4 * b, depth));
    int32_t child = drawn < 0 ? -1 : a.first_child[row + node];
    while (child >= 0 && a.tokens[row + child] != drawn) child = a.next_sibling[row + child];
    if (child < 0) break;
    node = child;
    ++depth;
  }
  a.accept_len[b] = int32_t(depth);
  a.next_token[b] = drawn;
}

// The vocabulary-wide draw has the versions; this loop around it is compiled once.
void verify(const VerifyTreePointArgs& a) {
  parallel_for(a.batch, 4096 / (a.vocab + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) verify_row(a, b);
  });
}

}  // namespace

static const Kernel<void (*)(const VerifyTreePointArgs&)> kernel("verify_tree_point", verify, FD_X86(verify), FD_X86(verify));
void verify_tree_point(const VerifyTreePointArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
