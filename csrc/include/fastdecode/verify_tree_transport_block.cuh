// Score-swap verification of whole trees: one block walks a tree and plans the nodes that it comes to, in depth-first order.
#pragma once

#include "fastdecode/keys.cuh"
#include "fastdecode/transport_device.cuh"
#include "fastdecode/transport_swaps.cuh"
#include "fastdecode/tree_walk.cuh"

namespace fastdecode {

// A node whose children are being verified.
struct BlockFrame {
  double weight, alpha, cap, left;  // left: chance that none of the drafts before `next` wins
  int32_t node, next, planned, unused;
  Drawn drawn;
};

constexpr int64_t kBlockWorkspace = (kTransportArrays + kMaxBlockDraws) * int64_t(kKnots);  // doubles per row, and per node of it:
constexpr int64_t kBlockFrame = sizeof(BlockFrame) / sizeof(double);
static_assert(sizeof(BlockFrame) == 135 * sizeof(double), "ops/transport.py makes room for frames");

struct Points {
  SharedPtr<double> point, weight;  // [kMaxPoints]
  int32_t count;
};

// Chance that a draft of token t wins: the integral, over all scores, of its density times the distribution functions of all others.
FD_DEVICE double winning_chance(const TransportPlan& plan, const double* sums, const Drawn& drawn, int32_t t, const Points& points) {
  double won = 0;
  for (int32_t k = 0; k < kKnots; ++k) {
    const double own = step_of(sums + int64_t(t) * kKnots, k), right = plan.right[k], left = k ? plan.right[k - 1] : 0;
    if (!(own > 0) || right <= plan.threshold || right <= left) continue;
    const double low = left > plan.threshold ? left : plan.threshold;
    for (int32_t i = 0; i < points.count; ++i) {
      const double v = low + (right - low) * (points.point[i] + 1) / 2, back = (right - v) / (right - left);
      double before = points.weight[i] / 2 * (right - low) / (right - left), after = 1, power = 0;
      for (int32_t s = 0; s <= t; ++s) {
        const double* other = sums + int64_t(s) * kKnots;
        const double below = other[k] - step_of(other, k) * back;
        power = raised(below, drawn.times[s] - 1);
        if (s < t) before *= power * below;
      }
      for (int32_t s = drawn.count - 1; s > t; --s) {
        const double* other = sums + int64_t(s) * kKnots;
        const double below = other[k] - step_of(other, k) * back;
        after = after * raised(below, drawn.times[s] - 1) * below;
      }
      won += before * after * power * drawn.times[t] * own;
    }
  }
  return won;
}

struct BlockWalk {
  const VerifyTreeTransportArgs& a;
  const TransportScratch& scratch;
  Points points;
  int64_t b, row;
  double* arrays;
  BlockFrame* frames;

  FD_BLOCK void open(int32_t depth, int32_t node, double weight) {
    BlockFrame& f = frames[depth];
    const Law p = law_of(a.p, row + node, a.vocab), q = law_of(a.q, row + node, a.vocab);
    if (thread_index() == 0) {
      const int32_t* offset = a.draw_offsets + b * (a.nodes + 1) + node;
      const int64_t begin = offset[0] < 0 ? 0 : offset[0], end = offset[1] < a.draws ? offset[1] : a.draws;
      collect_draws(a.draw_tokens + begin, a.draw_tokens + end, a.vocab, &f.drawn);
      a.path[row + depth] = node;
    }
    block_sync();
    const TransportPlan plan = block_plan(p, q, a.vocab, f.drawn.draws, weight, arrays, scratch);
    const bool planned = plan.threshold <= 1;
    if (planned) {
      double* sums = arrays + kTransportArrays * kKnots;
      points.count = (f.drawn.draws + 1) / 2;
      for (int32_t i = thread_index(); i < points.count; i += block_size()) {
        double point, share;
        legendre_point(points.count, i, &point, &share);
        points.point[i] = point;
        points.weight[i] = share;
      }
      for (int32_t t = thread_index(); t < f.drawn.count; t += block_size()) score_sums(plan, law_at(p, f.drawn.token[t]), law_at(q, f.drawn.token[t]), sums + int64_t(t) * kKnots);
      block_sync();
      for (int32_t t = thread_index(); t < f.drawn.count; t += block_size()) f.drawn.won[t] = winning_chance(plan, sums, f.drawn, t, points);
    }
    if (thread_index() == 0) f.weight = weight, f.alpha = plan.alpha, f.cap = plan.cap, f.left = 1, f.node = node, f.next = 0, f.planned = planned;
    block_sync();
  }

  // A token from what the drafts leave.
  FD_BLOCK int32_t remaining(const BlockFrame& f) {
    const Law p = law_of(a.p, row + f.node, a.vocab), q = law_of(a.q, row + f.node, a.vocab);
    const Stream last = node_stream(a.key + 4 * b, f.node, kResidual);
    const TransportResidual residual = transport_residual(f.cap);
    const int32_t token = f.planned ? block_race(TransportWeight{p, q, residual}, a.vocab, last, scratch.row) : -1;
    return token >= 0 ? token : block_race(TargetWeight{p}, a.vocab, last, scratch.row);
  }

  FD_BLOCK int32_t child(int32_t node, int32_t token) const { return child_with(a.tokens + row, a.first_child + row, a.next_sibling + row, node, token); }

  FD_BLOCK bool coin(const BlockFrame& f, uint32_t number, double chance) const { return node_coin(a.key + 4 * b, f.node, number) < chance; }

  // From the root until a token was emitted; returns the depth of the last node that was kept.
  FD_BLOCK int32_t run(int32_t* emitted) {
    int32_t depth = 0;
    open(0, 0, 1);
    while (true) {
      BlockFrame& f = frames[depth];
      const int32_t t = f.next;
      const double left = f.left;
      block_sync();  // all have read what changes now
      if (t < f.drawn.count) {
        const double won = f.drawn.won[t], share = left > 0 ? (won / left < 1 ? won / left : 1) : 0;
        if (thread_index() == 0) f.next = t + 1, f.left = left - won;
        block_sync();
        if (!(share > 0)) continue;
        const int32_t token = f.drawn.token[t], below = child(f.node, token);
        if (below >= 0) {
          open(++depth, below, share);
        } else if (coin(f, uint32_t(1 + t), share)) {
          *emitted = token;
          return depth;
        }
        continue;
      }
      if (!coin(f, 0, passing_chance(f.weight, f.alpha))) {
        --depth;  // never below a node of weight 1, which passes
        continue;
      }
      const int32_t token = remaining(f);
      bool was_drawn = false;
      for (int32_t i = 0; i < f.drawn.count; ++i) was_drawn |= f.drawn.token[i] == token;
      const int32_t below = was_drawn ? -1 : child(f.node, token);
      if (below < 0) {
        *emitted = token;
        return depth;
      }
      open(++depth, below, 1);  // a child that was not drawn is verified like a root
    }
  }
};

FD_KERNEL verify_tree_transport_block_kernel(VerifyTreeTransportArgs a) {
  FD_SHARED(uint64_t, mass, kKnots);
  FD_SHARED(double, doubles, 32);
  FD_SHARED(int64_t, integers, 32);
  FD_SHARED(BestDraft, drafts, 32);
  FD_SHARED(Race, races, 32);
  FD_SHARED(double, point, kMaxPoints);
  FD_SHARED(double, weight, kMaxPoints);
  const TransportScratch scratch{mass, doubles, integers, drafts, {races, doubles}};
  const int64_t b = block_index(), row = b * a.nodes;
  clear_path(a.path + row, a.nodes);
  block_sync();
  double* arrays = a.workspace + b * (kBlockWorkspace + a.nodes * kBlockFrame);
  BlockWalk walk{a, scratch, {point, weight, 0}, b, row, arrays, reinterpret_cast<BlockFrame*>(arrays + kBlockWorkspace)};
  int32_t token = -1;
  const int32_t depth = walk.run(&token);
  for (int64_t i = depth + 1 + thread_index(); i < a.nodes; i += block_size()) a.path[row + i] = -1;
  if (thread_index() == 0) a.accept_len[b] = depth, a.next_token[b] = token;
}

}  // namespace fastdecode
