// Score-swap verification: one block plans a node, or walks a tree and plans the nodes that it comes to.
#pragma once

#include "fastdecode/keys.cuh"
#include "fastdecode/transport_device.cuh"
#include "fastdecode/tree_walk.cuh"

namespace fastdecode {

// The token kept after a node.
FD_DEVICE int32_t block_transport(const VerifyTreeTransportArgs& a, int64_t b, int32_t node, const TransportScratch& s) {
  const int64_t row = b * a.nodes + node;
  const Law p = law_of(a.p, row, a.vocab), q = law_of(a.q, row, a.vocab);
  const int64_t* key = a.key + 4 * b;
  const Stream coins = node_stream(key, node, kAccept), last = node_stream(key, node, kResidual);
  const int32_t* offset = a.draw_offsets + b * (a.nodes + 1) + node;
  const int64_t begin = offset[0] < 0 ? 0 : offset[0], end = offset[1] < a.draws ? offset[1] : a.draws;
  int32_t draws = 0;
  for (int64_t d = begin; d < end; ++d) draws += uint64_t(a.draw_tokens[d]) < uint64_t(a.vocab);
  const TransportPlan plan = block_plan(p, q, a.vocab, draws, 1, a.workspace + b * kTransportArrays * kKnots, s);
  if (plan.threshold > 1) return block_race(TargetWeight{p}, a.vocab, last, s.row);
  BestDraft best{-1, 0, -1};
  uint32_t draw = 0;
  for (int64_t d = begin; d < end; ++d) {
    const int32_t token = a.draw_tokens[d];
    if (uint64_t(token) >= uint64_t(a.vocab)) continue;
    if (draw % uint32_t(block_size()) == uint32_t(thread_index())) {
      const double score = draft_score(plan, split_ratio(token_ratio(law_at(p, token), law_at(q, token))), coins, draw);
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
  const TransportPlan plan = block_plan(law_of(a.p, r, a.vocab), law_of(a.q, r, a.vocab), a.vocab, a.draws[r], a.weight ? a.weight[r] : 1, a.knots + r * kTransportArrays * kKnots, scratch);
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
