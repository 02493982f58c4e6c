// One block walks one tree. The weights that rejections leave live in the row's workspace; each thread owns the same entries in
// every pass, so only the decisions need barriers.
#pragma once

#include "fastdecode/keys.cuh"
#include "fastdecode/residual.cuh"
#include "fastdecode/tree_walk.cuh"
#include "ops/cpu/verify_tree_recursive.h"

namespace fastdecode {

struct NodeLaw {
  const float *p, *q;  // q null: the remaining draws count as point masses
  double* weights;
  double mass, draft_mass;
  bool started;  // false: the target's own row serves
};

// Iterates over the draws below a node: the list if there is one, else the children in order.
struct DrawList {
  const int32_t *tokens, *next_sibling, *list;
  int64_t next, end;
  int32_t child;

  FD_HD bool take(int32_t& token) {
    if (list) {
      if (next >= end) return false;
      token = list[next++];
      return true;
    }
    if (child < 0) return false;
    token = tokens[child];
    child = next_sibling[child];
    return true;
  }
};

FD_HD static inline DrawList draws_below(const VerifyTreeRecursiveArgs& a, int64_t b, int32_t node) {
  const int64_t row = b * a.nodes;
  DrawList d{a.tokens + row, a.next_sibling + row, nullptr, 0, 0, a.first_child[row + node]};
  if (!a.draw_offsets) return d;
  const int32_t* offset = a.draw_offsets + b * (a.nodes + 1) + node;
  d.list = a.draw_tokens;
  d.next = offset[0] < 0 ? 0 : offset[0];
  d.end = offset[1] < a.draws ? offset[1] : a.draws;
  return d;
}

// weights <- max(weights / mass - q / draft_mass, 0) without the removed token, and the new masses.
FD_DEVICE void block_reject(NodeLaw& law, int64_t vocab, int32_t removed, const RowScratch& scratch) {
  double mass = 0, draft_mass = 0;
  for (int64_t v = thread_index(); v < vocab; v += block_size()) {
    double w = law.started ? law.weights[v] : double(law.p[v]);
    if (v == removed || (law.started && w < 0)) w = -1;
    if (w >= 0 || w != w) {
      const double q = law.q ? double(law.q[v]) : 0;
      w = w / law.mass - q / law.draft_mass;
      w = w <= 0 ? 0 : w;
      mass += w;
      draft_mass += q;
    }
    law.weights[v] = w;
  }
  law.started = true;
  law.mass = block_reduce(mass, scratch.sum, Add());
  law.draft_mass = block_reduce(draft_mass, scratch.sum, Add());
  block_sync();  // thread v's weights are read by all in the next test
}

// The token kept after a node; `drawn` tells whether it is one of the draws.
FD_DEVICE int32_t block_keep(const VerifyTreeRecursiveArgs& a, int64_t b, int32_t node, bool& drawn, const RowScratch& scratch) {
  const int64_t at = (b * a.nodes + node) * a.vocab;
  const int64_t* key = a.key + 4 * b;
  const Stream coins = node_stream(key, node, kAccept), last = node_stream(key, node, kResidual);
  NodeLaw law{a.p + at, a.q + at, a.workspace + b * a.vocab, 1, 1, false};
  DrawList draws = draws_below(a, b, node);
  int32_t token;
  drawn = true;
  for (uint32_t draw = 0; draws.take(token); ++draw) {
    if (uint64_t(token) >= uint64_t(a.vocab)) continue;
    double w = law.started ? law.weights[token] : double(law.p[token]);
    if (w < 0) w = 0;
    const double draft = law.q ? double(law.q[token]) / law.draft_mass : 1;
    if (stream_uniform(coins, draw) * draft < w / law.mass) return token;
    block_sync();  // all threads have read the weight before it changes
    block_reject(law, a.vocab, !a.replacement || !law.q ? token : -1, scratch);
    if (law.mass < kVanished) {
      law.started = false;  // only rounding leads here: the target's own row
      break;
    }
    if (law.draft_mass < kVanished) law.q = nullptr, law.draft_mass = 1;
  }
  drawn = false;
  if (!law.started) return block_race(ResidualWeight{law.p, nullptr, 1}, a.vocab, last, scratch);
  return block_race(StoredWeight{law.weights}, a.vocab, last, scratch);
}

FD_KERNEL verify_tree_recursive_kernel(VerifyTreeRecursiveArgs a) {
  FD_SHARED(Race, races, 32);
  FD_SHARED(double, sums, 32);
  const RowScratch scratch{races, sums};
  const int64_t b = block_index(), row = b * a.nodes;
  clear_path(a.path + row, a.nodes);
  block_sync();
  int32_t node = 0, child = 0, token = -1, depth = -1;
  while (child >= 0) {
    node = child;
    ++depth;
    if (thread_index() == 0) a.path[row + depth] = node;
    bool drawn;
    token = block_keep(a, b, node, drawn, scratch);
    block_sync();  // the next node starts its weights anew
    child = drawn ? child_with(a.tokens + row, a.first_child + row, a.next_sibling + row, node, token) : -1;
  }
  if (thread_index() == 0) a.accept_len[b] = depth, a.next_token[b] = token;
}

}  // namespace fastdecode
