// Score-swap for whole trees: a node is kept or not together with everything below it. The readable version is
// fastdecode/ops/reference/transport_block.py.
#include <algorithm>
#include <cmath>
#include <vector>

#include "fastdecode/keys.cuh"
#include "fastdecode/transport_swaps.cuh"
#include "ops/cpu/transport.h"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace {

struct Quadrature {
  int count = 0;
  double point[kMaxPoints], weight[kMaxPoints];

  explicit Quadrature(int n) : count(n) {
    for (int i = 0; i < n; ++i) legendre_point(n, i, point + i, weight + i);
  }
};

const Quadrature& quadrature(int n) {
  static const std::vector<Quadrature> all = [] {
    std::vector<Quadrature> made;
    for (int i = 0; i <= kMaxBlockDraws / 2; ++i) made.emplace_back(i);
    return made;
  }();
  return all[n];
}

// Integral, over one interval of scores, of each token's density times the distribution functions of all other drafts.
void integrate(const TransportPlan& plan, int32_t knot, const double* sums, Drawn& drawn) {
  const double right = plan.right[knot], left = knot ? plan.right[knot - 1] : 0, low = std::max(left, plan.threshold);
  const Quadrature& points = quadrature((drawn.draws + 1) / 2);
  double mass[kMaxBlockDraws], below[kMaxBlockDraws], power[kMaxBlockDraws];
  for (int t = 0; t < drawn.count; ++t) mass[t] = sums[t * kKnots + knot] - (knot ? sums[t * kKnots + knot - 1] : 0);
  for (int i = 0; i < points.count; ++i) {
    const double v = low + (right - low) * (points.point[i] + 1) / 2, back = (right - v) / (right - left);
    double after[kMaxBlockDraws + 1];
    after[drawn.count] = 1;
    for (int t = drawn.count - 1; t >= 0; --t) {
      below[t] = sums[t * kKnots + knot] - mass[t] * back;
      power[t] = raised(below[t], drawn.times[t] - 1);
      after[t] = after[t + 1] * power[t] * below[t];
    }
    double before = points.weight[i] / 2 * (right - low) / (right - left);
    for (int t = 0; t < drawn.count; ++t) {
      drawn.won[t] += before * after[t + 1] * power[t] * drawn.times[t] * mass[t];
      before *= power[t] * below[t];
    }
  }
}

class Block {
 public:
  Block(const VerifyTreeTransportArgs& args, int64_t b, int thread)
      : a_(args), row_(b * args.nodes), b_(b), arrays_(args.workspace + thread * (kTransportArrays + kMaxBlockDraws) * kKnots), sums_(arrays_ + kTransportArrays * kKnots), key_(args.key + 4 * b), coins_{key_[0], key_[1], key_[2], kAccept}, path_(args.path + row_) {}

  void run() {
    std::fill(path_, path_ + a_.nodes, -1);
    verify(0, 0, 1);
  }

 private:
  // The node at this depth; true if it passed and a token was emitted below it.
  bool verify(int32_t node, int32_t depth, double weight) {
    path_[depth] = node;
    Drawn drawn;
    const TransportPlan plan = prepare(node, weight, drawn);
    const double alpha = plan.alpha, cap = plan.cap;  // the arrays are gone once a child was verified
    const bool planned = plan.threshold <= 1;
    double left = 1;
    for (int t = 0; t < drawn.count; ++t) {
      const double share = left > 0 ? std::min(1.0, drawn.won[t] / left) : 0;
      left -= drawn.won[t];
      if (share <= 0) continue;
      const int32_t child = child_with(node, drawn.token[t]);
      if (child >= 0 ? verify(child, depth + 1, share) : node_coin(coins_, node, 1 + t) < share && finish(depth, drawn.token[t])) return true;
    }
    return node_coin(coins_, node, 0) < passing_chance(weight, alpha) && emit(node, depth, planned, cap, drawn);
  }

  bool finish(int32_t depth, int32_t token) {
    for (int64_t i = depth + 1; i < a_.nodes; ++i) path_[i] = -1;
    a_.accept_len[b_] = depth;
    a_.next_token[b_] = token;
    return true;
  }

  // A token from what the drafts leave; a child that was not drawn is verified like a root.
  bool emit(int32_t node, int32_t depth, bool planned, double cap, const Drawn& drawn) {
    const Law p = law_of(a_.p, row_ + node, a_.vocab), q = law_of(a_.q, row_ + node, a_.vocab);
    const Stream last = node_stream(key_, node, kResidual);
    int32_t token = planned ? transport_race(p, q, a_.vocab, transport_residual(cap), last) : -1;
    if (token < 0) token = target_race(p, a_.vocab, last);
    const bool was_drawn = std::find(drawn.token, drawn.token + drawn.count, token) != drawn.token + drawn.count;
    const int32_t child = was_drawn ? -1 : child_with(node, token);
    return child >= 0 ? verify(child, depth + 1, 1) : finish(depth, token);
  }

  TransportPlan prepare(int32_t node, double weight, Drawn& drawn) {
    const Law p = law_of(a_.p, row_ + node, a_.vocab), q = law_of(a_.q, row_ + node, a_.vocab);
    const int32_t* offset = a_.draw_offsets + b_ * (a_.nodes + 1) + node;
    collect_draws(a_.draw_tokens + std::max(0, offset[0]), a_.draw_tokens + std::min<int64_t>(offset[1], a_.draws), a_.vocab, &drawn);
    const TransportPlan plan = make_transport_plan(p, q, a_.vocab, drawn.draws, weight, arrays_);
    if (plan.threshold > 1) return plan;
    bool busy[kKnots] = {};
    for (int t = 0; t < drawn.count; ++t) {
      double* sums = sums_ + t * kKnots;
      score_sums(plan, law_at(p, drawn.token[t]), law_at(q, drawn.token[t]), sums);
      for (int32_t k = 0; k < kKnots; ++k) busy[k] |= step_of(sums, k) > 0;
    }
    for (int32_t k = 0; k < kKnots; ++k) {
      const double left = k ? plan.right[k - 1] : 0;
      if (busy[k] && plan.right[k] > plan.threshold && plan.right[k] > left) integrate(plan, k, sums_, drawn);
    }
    return plan;
  }

  int32_t child_with(int32_t node, int32_t token) const {
    int32_t child = a_.first_child[row_ + node];
    while (child >= 0 && a_.tokens[row_ + child] != token) child = a_.next_sibling[row_ + child];
    return child;
  }

  const VerifyTreeTransportArgs& a_;
  int64_t row_, b_;
  double *arrays_, *sums_;
  const int64_t* key_;
  const int64_t coins_[4];
  int32_t* path_;
};

void verify(const VerifyTreeTransportArgs& a) {
  parallel_for(a.batch, 4096 / (a.vocab + 1) + 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t b = begin; b < end; ++b) Block(a, b, thread).run();
  });
}

const Kernel<void (*)(const VerifyTreeTransportArgs&)> kernel("verify_tree_transport_block", verify, FD_X86(verify), FD_X86(verify));  // its passes over the vocabulary dispatch

}  // namespace

void verify_tree_transport_block(const VerifyTreeTransportArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
