// Score-swap verification: one block plans a node, or walks a tree and plans the nodes that it comes to.
#pragma once

#include <cfloat>

#include "fastdecode/keys.cuh"
#include "fastdecode/residual.cuh"
#include "fastdecode/transport_knots.cuh"
#include "fastdecode/tree_walk.cuh"
#include "ops/cpu/transport.h"

namespace fastdecode {

struct Least {
  template <class T>
  FD_HD T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

// A draft and its score; the earlier one wins a tie.
struct BestDraft {
  double score;
  uint32_t draw;
  int32_t token;
};

struct MergeDrafts {
  FD_HD BestDraft operator()(const BestDraft& a, const BestDraft& b) const { return b.score > a.score || (b.score == a.score && b.draw < a.draw) ? b : a; }
};

struct TransportScratch {
  SharedPtr<uint64_t> mass;    // [kKnots]
  SharedPtr<double> doubles;   // [32]
  SharedPtr<int64_t> integers; // [32]
  SharedPtr<BestDraft> drafts; // [32]
  RowScratch row;
};

struct TransportWeight {
  const float *p, *q;
  TransportResidual residual;
  FD_HD double operator()(int64_t v) const { return residual_weight(residual, p[v], q[v]); }
};

#if defined(__CUDACC__)
#define FD_BLOCK __device__
#else
#define FD_BLOCK
#endif

// A Group of transport_knots.cuh.
struct Block {
  static const int kWide = 1;
  const TransportScratch& scratch;

  FD_BLOCK void sync() const { block_sync(); }
  template <class F>
  FD_BLOCK void each(const F& f) const {
    for (int32_t k = thread_index(); k < kKnots; k += block_size()) f(k);
    block_sync();
  }
  template <class F>
  FD_BLOCK double least(const F& f) const {
    double result = double(INFINITY), value;
    for (int32_t k = thread_index(); k < kKnots; k += block_size()) {
      f(k, &value);
      result = value < result ? value : result;
    }
    return block_reduce(result, scratch.doubles, Least());
  }
  template <class F>
  FD_BLOCK int32_t first(const F& f) const {
    int64_t result = kKnots;
    for (int32_t k = thread_index(); k < kKnots; k += block_size())
      if (k < result && f(k)) result = k;
    return int32_t(block_reduce(result, scratch.integers, Least()));
  }
  // Every stretch is summed by one thread; then each adds what the stretches before its own come to.
  FD_BLOCK void stretch_sum(double* values) const { stretch_sum_of<double>(values); }
  template <class T, class Array>
  FD_BLOCK void stretch_sum_of(const Array& values) const {
    const int32_t begin = thread_index() * kStretch;
    const bool busy = thread_index() < kStretches;
    if (busy)
      for (int32_t i = 1; i < kStretch; ++i) values[begin + i] = values[begin + i] + values[begin + i - 1];
    block_sync();
    T before = 0;
    if (busy)
      for (int32_t s = 0; s < thread_index(); ++s) before = before + values[s * kStretch + kStretch - 1];
    block_sync();
    if (busy)
      for (int32_t i = 0; i < kStretch; ++i) values[begin + i] = values[begin + i] + before;
    block_sync();
  }
};

FD_DEVICE TransportTotals block_histogram(const float* p, const float* q, int64_t vocab, const TransportScratch& s) {
  for (int32_t k = thread_index(); k < kKnots; k += block_size()) s.mass[k] = 0;
  block_sync();
  int64_t draft = 0, target = 0, bad = 0;
  for (int64_t v = thread_index(); v < vocab; v += block_size()) {
    const float w = p[v], mass = q[v];
    if (!(w >= 0 && w <= FLT_MAX && mass >= 0 && mass <= FLT_MAX)) {
      bad = 1;
      break;
    }
    const TokenSplit split = split_ratio(token_ratio(w, mass));
    const int64_t whole = whole_mass(mass), upper = upper_mass(mass, split.share);
    if (whole > upper) atomic_add(s.mass, split.cell, uint64_t(whole - upper));
    if (upper) atomic_add(s.mass, split.cell + 1, uint64_t(upper));
    draft += whole;
    target += whole_mass(w);
  }
  block_sync();
  bad = block_reduce(bad, s.integers, Add());
  draft = block_reduce(draft, s.integers, Add());
  return {draft, block_reduce(target, s.integers, Add()), bad == 0};
}

FD_DEVICE TransportPlan block_plan(const float* p, const float* q, int64_t vocab, int32_t draws, double weight, double* arrays, const TransportScratch& s) {
  TransportPlan plan = transport_arrays(arrays);
  if (draws <= 0) return plan;
  const TransportTotals totals = block_histogram(p, q, vocab, s);
  if (!totals.valid || !masses_are_laws(totals.draft, totals.target)) return plan;
  const Block block{s};
  block.each([&](int32_t k) { plan.base[k] = double(int64_t(s.mass[k])) / double(totals.draft); });
  block.stretch_sum_of<uint64_t>(s.mass);
  block.each([&](int32_t k) {
    plan.right[k] = double(int64_t(s.mass[k])) / double(totals.draft);
    plan.give[k] = knot_ratio(k);  // until the deficits take their place
  });
  plan_from_masses(plan, uint32_t(draws), weight * double(totals.draft) / double(totals.target), plan.give, block);
  return plan;
}

// The token kept after a node.
FD_DEVICE int32_t block_transport(const VerifyTreeTransportArgs& a, int64_t b, int32_t node, const TransportScratch& s) {
  const int64_t at = (b * a.nodes + node) * a.vocab;
  const float *p = a.p + at, *q = a.q + at;
  const int64_t* key = a.key + 4 * b;
  const Stream coins = node_stream(key, node, kAccept), last = node_stream(key, node, kResidual);
  const int32_t* offset = a.draw_offsets + b * (a.nodes + 1) + node;
  const int64_t begin = offset[0] < 0 ? 0 : offset[0], end = offset[1] < a.draws ? offset[1] : a.draws;
  int32_t draws = 0;
  for (int64_t d = begin; d < end; ++d) draws += uint64_t(a.draw_tokens[d]) < uint64_t(a.vocab);
  const TransportPlan plan = block_plan(p, q, a.vocab, draws, 1, a.workspace + b * kTransportArrays * kKnots, s);
  if (plan.threshold > 1) return block_race(ResidualWeight{p, nullptr, 1}, a.vocab, last, s.row);
  BestDraft best{-1, 0, -1};
  uint32_t draw = 0;
  for (int64_t d = begin; d < end; ++d) {
    const int32_t token = a.draw_tokens[d];
    if (uint64_t(token) >= uint64_t(a.vocab)) continue;
    if (draw % uint32_t(block_size()) == uint32_t(thread_index())) {
      const double score = draft_score(plan, split_ratio(token_ratio(p[token], q[token])), coins, draw);
      best = MergeDrafts()(best, BestDraft{score, draw, token});
    }
    ++draw;
  }
  best = block_reduce(best, s.drafts, MergeDrafts());
  if (best.score >= plan.threshold) return best.token;
  const TransportResidual residual = transport_residual(plan.cap);
  return block_race(TransportWeight{p, q, residual}, a.vocab, last, s.row);
}

FD_KERNEL transport_plan_kernel(TransportPlanArgs a) {
  FD_SHARED(uint64_t, mass, kKnots);
  FD_SHARED(double, doubles, 32);
  FD_SHARED(int64_t, integers, 32);
  FD_SHARED(BestDraft, drafts, 32);
  FD_SHARED(Race, races, 32);
  const TransportScratch scratch{mass, doubles, integers, drafts, {races, doubles}};
  const int64_t r = block_index();
  const TransportPlan plan = block_plan(a.p + r * a.vocab, a.q + r * a.vocab, a.vocab, a.draws[r], a.weight ? a.weight[r] : 1, a.knots + r * kTransportArrays * kKnots, scratch);
  if (plan.threshold > 1)
    for (int32_t k = thread_index(); k < kTransportArrays * kKnots; k += block_size()) a.knots[r * kTransportArrays * kKnots + k] = 0;
  if (thread_index() == 0) a.head[3 * r] = plan.alpha, a.head[3 * r + 1] = plan.cap, a.head[3 * r + 2] = plan.threshold;
}

FD_KERNEL verify_tree_transport_kernel(VerifyTreeTransportArgs a) {
  FD_SHARED(uint64_t, mass, kKnots);
  FD_SHARED(double, doubles, 32);
  FD_SHARED(int64_t, integers, 32);
  FD_SHARED(BestDraft, drafts, 32);
  FD_SHARED(Race, races, 32);
  const TransportScratch scratch{mass, doubles, integers, drafts, {races, doubles}};
  const int64_t b = block_index(), row = b * a.nodes;
  clear_path(a.path + row, a.nodes);
  block_sync();
  int32_t node = 0, token = -1, depth = 0;
  while (true) {
    if (thread_index() == 0) a.path[row + depth] = node;
    token = block_transport(a, b, node, scratch);
    block_sync();  // the next node's plan overwrites this one
    const int32_t child = child_with(a.tokens + row, a.first_child + row, a.next_sibling + row, node, token);
    if (child < 0) break;
    node = child;
    ++depth;
  }
  if (thread_index() == 0) a.accept_len[b] = depth, a.next_token[b] = token;
}

}  // namespace fastdecode
