// Recursive rejection sampling (SpecInfer 2305.09781; without replacement: RSD 2402.14160).
#include "ops/cpu/verify_tree_recursive.h"

#include <algorithm>

#include "fastdecode/keys.cuh"
#include "ops/cpu/residual.h"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace {

struct Tree {
  const VerifyTreeRecursiveArgs& a;
  int64_t b, row;
  double* weights;
  const int64_t* key;

  Tree(const VerifyTreeRecursiveArgs& args, int64_t batch_row)
      : a(args), b(batch_row), row(batch_row * args.nodes), weights(args.workspace + batch_row * args.vocab), key(args.key + 4 * batch_row) {}

  int32_t child_with(int32_t node, int32_t token) const {
    int32_t child = a.first_child[row + node];
    while (child >= 0 && a.tokens[row + child] != token) child = a.next_sibling[row + child];
    return child;
  }
};

// The tokens drawn below one node, one after the other: from the list of draws if there is one, else the children.
class Draws {
 public:
  Draws(const Tree& tree, int32_t node) : tree_(tree) {
    const VerifyTreeRecursiveArgs& a = tree.a;
    if (!a.draw_offsets) {
      child_ = a.first_child[tree.row + node];
      return;
    }
    const int32_t* offset = a.draw_offsets + tree.b * (a.nodes + 1) + node;
    next_ = std::max<int64_t>(0, offset[0]);
    end_ = std::min<int64_t>(offset[1], a.draws);
  }
  bool next(int32_t& token) {
    if (tree_.a.draw_offsets) {
      if (next_ >= end_) return false;
      token = tree_.a.draw_tokens[next_++];
      return true;
    }
    if (child_ < 0) return false;
    token = tree_.a.tokens[tree_.row + child_];
    child_ = tree_.a.next_sibling[tree_.row + child_];
    return true;
  }

 private:
  const Tree& tree_;
  int32_t child_ = -1;
  int64_t next_ = 0, end_ = 0;
};

// The token kept after `node`: an accepted draw, or one from what the rejected draws leave of the target's law.
struct Kept {
  int32_t token;
  bool drawn;
};

Kept verify_node(const Tree& t, int32_t node) {
  const VerifyTreeRecursiveArgs& a = t.a;
  const float *p = a.p + (t.row + node) * a.vocab, *q = a.q + (t.row + node) * a.vocab;
  const Stream coins = node_stream(t.key, node, kAccept), last = node_stream(t.key, node, kResidual);
  RejectionState state{t.weights, q, 1, 1, a.vocab};
  Draws draws(t, node);
  bool started = false;  // the target's own row serves until the first rejection
  int32_t token;
  for (uint32_t draw = 0; draws.next(token); ++draw) {
    if (uint64_t(token) >= uint64_t(a.vocab)) continue;  // padding such as -1 was never drawn
    const double w = started ? std::max(state.weights[token], 0.0) : double(p[token]);
    const double draft = state.q ? double(q[token]) / state.draft_mass : 1;
    if (stream_uniform(coins, draw) * draft < w / state.mass) return {token, true};
    if (!started) std::copy(p, p + a.vocab, state.weights);
    started = true;
    if (!a.replacement || !state.q) state.weights[token] = -1;
    reject_draw(state);
    if (state.mass < kNoMass) return {race_row({p, nullptr, 1, a.vocab}, last), false};
    if (state.draft_mass < kNoMass) state.q = nullptr, state.draft_mass = 1;
  }
  return {started ? race_weights(state.weights, a.vocab, last) : race_row({p, nullptr, 1, a.vocab}, last), false};
}

void verify_row(const VerifyTreeRecursiveArgs& a, int64_t b) {
  const Tree tree(a, b);
  int32_t node = 0, child;
  int64_t depth = 0;
  Kept kept;
  for (int64_t i = 0; i < a.nodes; ++i) a.path[tree.row + i] = -1;
  while (true) {
    a.path[tree.row + depth] = node;
    kept = verify_node(tree, node);
    child = kept.drawn ? tree.child_with(node, kept.token) : -1;
    if (child < 0) break;
    node = child;
    ++depth;
  }
  a.accept_len[b] = int32_t(depth);
  a.next_token[b] = kept.token;
}

void verify(const VerifyTreeRecursiveArgs& a) {
  parallel_for(a.batch, 4096 / (a.vocab + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) verify_row(a, b);
  });
}

const Kernel<void (*)(const VerifyTreeRecursiveArgs&)> kernel("verify_tree_recursive", verify, FD_X86(verify), FD_X86(verify));  // its passes over the vocabulary dispatch

}  // namespace

void verify_tree_recursive(const VerifyTreeRecursiveArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
