// One block per batch row, node and group of query heads that share a KV head. The keys a node sees form one sequence: the prefix,
// then its ancestors. Tiles of 32 keys go to the warps in turn; each warp runs its own online softmax, the block merges them at the
// end. Everything depends on a key's place in the sequence, so a node's result is bit for bit that of a chain with the same keys.
#pragma once

#include <cmath>

#include "fastdecode/block.cuh"
#include "fastdecode/elements.cuh"
#include "ops/cpu/tree_attention.h"

namespace fastdecode {

constexpr int kAttentionWarps = 4, kAttentionHeads = 4, kAttentionPairs = 4;  // a lane owns the dimensions 64 j + 2 lane + {0, 1}
constexpr int kAttentionDim = 64 * kAttentionPairs;

// Blocks that share a KV head's query heads.
FD_HD static inline int64_t attention_splits(const TreeAttentionArgs& a) { return (a.heads / a.kv_heads + kAttentionHeads - 1) / kAttentionHeads; }

// What a block works on.
struct AttentionNode {
  int64_t b, node, head, kv_head, slot_row;  // head: the first of the block
  int heads;
  int64_t prefix, first, count;  // first: index in the sequence of the oldest key inside the window
  const int64_t* visible;        // [words]
  bool aligned;                  // query and key rows
};

FD_HD static inline int64_t visible_nodes(const TreeAttentionArgs& a, const int64_t* visible) {
  int64_t n = 0;
  for (int64_t w = 0; w < a.words; ++w) n += count_ones(uint64_t(visible[w]));
  return n;
}

// The node that is visible number `rank`, counted from 0 in ascending order.
FD_HD static inline int64_t visible_node(const int64_t* visible, int64_t rank) {
  for (int64_t w = 0;; ++w) {
    uint64_t bits = uint64_t(visible[w]);
    const int ones = count_ones(bits);
    if (rank >= ones) {
      rank -= ones;
      continue;
    }
    for (; rank > 0; --rank) bits &= bits - 1;
    return 64 * w + count_ones((bits & (0 - bits)) - 1);
  }
}

FD_HD static inline AttentionNode attention_node(const TreeAttentionArgs& a, int64_t block) {
  const int64_t splits = attention_splits(a), group = a.heads / a.kv_heads, split = block % splits;
  AttentionNode n;
  n.kv_head = block / splits % a.kv_heads;
  n.node = block / splits / a.kv_heads % a.nodes;
  n.b = block / splits / a.kv_heads / a.nodes;
  n.head = n.kv_head * group + split * kAttentionHeads;
  n.heads = int(group - split * kAttentionHeads < kAttentionHeads ? group - split * kAttentionHeads : kAttentionHeads);
  n.slot_row = a.rows ? a.rows[n.b] : n.b;
  n.prefix = a.lengths[n.b];
  n.visible = a.ancestors + (n.b * a.nodes + n.node) * a.words;
  n.first = 0;
  n.count = n.prefix + visible_nodes(a, n.visible);
  const int32_t* depth = a.depth + n.b * a.nodes;
  const int64_t oldest = n.prefix + depth[n.node] - a.window + 1;  // position of the oldest key, with a window
  if (a.window && oldest > 0) {
    n.first = oldest < n.prefix ? oldest : n.prefix;
    while (n.first >= n.prefix && n.first < n.count && n.prefix + depth[visible_node(n.visible, n.first - n.prefix)] < oldest) ++n.first;
  }
  n.aligned = groups_aligned<8>(a.query, a.dtype, a.query_stride[0] | a.query_stride[1] | a.query_stride[2]) &&
              groups_aligned<8>(a.key, a.dtype, a.key_stride[0] | a.key_stride[1] | a.key_stride[2]);
  return n;
}

FD_HD static inline int64_t slot_of(const AttentionNode& n, int64_t index) { return index < n.prefix ? index : n.prefix + visible_node(n.visible, index - n.prefix); }

// A warp's share of the online softmax: the largest score, the weight relative to it (each lane its own keys') and the sums of values.
template <int kHeads>
struct AttentionPart {
  float largest[kHeads], weight[kHeads], sum[kHeads][kAttentionPairs][2];
};

template <int kHeads>
struct HeadFloats {
  float value[kHeads];
};

// Scores of one key, each a chain of FMAs over the dimensions.
template <int kHeads>
FD_DEVICE HeadFloats<kHeads> attention_scores(const TreeAttentionArgs& a, const AttentionNode& n, int64_t slot) {
  HeadFloats<kHeads> score;
  for (int h = 0; h < kHeads; ++h) score.value[h] = 0;
  const int64_t key_at = n.slot_row * a.key_stride[0] + n.kv_head * a.key_stride[1] + slot * a.key_stride[2];
  const int64_t query_at = n.b * a.query_stride[0] + n.head * a.query_stride[1] + n.node * a.query_stride[2];
  for (int64_t d = 0; d < a.dim; d += 8) {
    float key[8], query[8];
    load_group<8>(a.key, a.dtype, key_at + d, n.aligned, key);
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      if (h >= n.heads) break;
      load_group<8>(a.query, a.dtype, query_at + h * a.query_stride[1] + d, n.aligned, query);  // all lanes the same: one transaction
      for (int j = 0; j < 8; ++j) score.value[h] = fmaf(query[j], key[j], score.value[h]);
    }
  }
  for (int h = 0; h < kHeads; ++h) score.value[h] *= a.scaling;
  return score;
}

struct MaxOfHeads {
  template <int kHeads>
  FD_HD HeadFloats<kHeads> operator()(HeadFloats<kHeads> x, const HeadFloats<kHeads>& y) const {
    for (int h = 0; h < kHeads; ++h) x.value[h] = fmaxf(x.value[h], y.value[h]);  // NaN stays in the weights
    return x;
  }
};

struct AddHeads {
  template <int kHeads>
  FD_HD HeadFloats<kHeads> operator()(HeadFloats<kHeads> x, const HeadFloats<kHeads>& y) const {
    for (int h = 0; h < kHeads; ++h) x.value[h] += y.value[h];
    return x;
  }
};

// exp(x - base), where a base of -inf stands for nothing seen yet.
FD_HD static inline float exp_from(float x, float base) { return expf(x - (base > -INFINITY ? base : 0)); }

// Adds keys [begin, begin + count) of the sequence, count <= 32. `probs` is [kAttentionHeads, 32] and `slots` [32] of this warp,
// from element `lanes` on.
template <int kHeads>
FD_DEVICE void attend_tile(const TreeAttentionArgs& a, const AttentionNode& n, int64_t begin, int count, int warp, SharedPtr<float> probs, SharedPtr<int32_t> slots, AttentionPart<kHeads>& part) {
  const int lane = thread_index() % 32;
  HeadFloats<kHeads> score;
  for (int h = 0; h < kHeads; ++h) score.value[h] = -INFINITY;
  if (lane < count) {
    const int64_t slot = slot_of(n, begin + lane);
    slots[32 * warp + lane] = int32_t(slot);
    score = attention_scores<kHeads>(a, n, slot);
  }
  const HeadFloats<kHeads> most = warp_reduce(score, MaxOfHeads());
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const float largest = fmaxf(part.largest[h], most.value[h]), scale = exp_from(part.largest[h], largest);
    const float p = lane < count ? exp_from(score.value[h], largest) : 0;
    part.largest[h] = largest;
    part.weight[h] = fmaf(part.weight[h], scale, p);
    for (int j = 0; j < kAttentionPairs; ++j) part.sum[h][j][0] *= scale, part.sum[h][j][1] *= scale;
    if (h < n.heads) probs[(warp * kAttentionHeads + h) * 32 + lane] = p;
  }
  warp_sync();
  const int64_t value_at = n.slot_row * a.value_stride[0] + n.kv_head * a.value_stride[1];
  const bool aligned = groups_aligned<2>(a.value, a.dtype, a.value_stride[0] | a.value_stride[1] | a.value_stride[2]);
  for (int k = 0; k < count; ++k) {
    const int64_t row = value_at + slots[32 * warp + k] * a.value_stride[2];
    float p[kHeads];
    for (int h = 0; h < kHeads; ++h) p[h] = h < n.heads ? float(probs[(warp * kAttentionHeads + h) * 32 + k]) : 0;
#pragma unroll
    for (int j = 0; j < kAttentionPairs; ++j) {
      const int64_t d = 64 * j + 2 * lane;
      if (d >= a.dim) break;
      float value[2];
      load_group<2>(a.value, a.dtype, row + d, aligned, value);
      for (int h = 0; h < kHeads; ++h)
        for (int i = 0; i < 2; ++i) part.sum[h][j][i] = fmaf(p[h], value[i], part.sum[h][j][i]);
    }
  }
  warp_sync();  // the next tile overwrites what the warp reads here
}

// Shared memory of a block.
struct AttentionScratch {
  SharedPtr<float> probs;     // [kAttentionWarps, kAttentionHeads, 32]
  SharedPtr<int32_t> slots;   // [kAttentionWarps, 32]
  SharedPtr<float> largest;   // [kAttentionWarps, kAttentionHeads]
  SharedPtr<float> weight;    // [kAttentionWarps, kAttentionHeads]
  SharedPtr<float> sums;      // [kAttentionWarps, kAttentionDim], one head at a time
};

// Adds the warps' shares in their order and writes the heads.
template <int kHeads>
FD_DEVICE void merge_warps(const TreeAttentionArgs& a, const AttentionNode& n, const AttentionPart<kHeads>& part, const AttentionScratch& s) {
  const int warp = thread_index() / 32, lane = thread_index() % 32;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    if (h >= n.heads) break;
    if (lane == 0) s.largest[warp] = part.largest[h], s.weight[warp] = part.weight[h];
#pragma unroll
    for (int j = 0; j < kAttentionPairs; ++j)
      for (int i = 0; i < 2; ++i)
        if (64 * j + 2 * lane < a.dim) s.sums[warp * kAttentionDim + 64 * j + 2 * lane + i] = part.sum[h][j][i];
    block_sync();
    float largest = s.largest[0], scale[kAttentionWarps], weight = 0;
    for (int w = 1; w < kAttentionWarps; ++w) largest = fmaxf(largest, s.largest[w]);
    for (int w = 0; w < kAttentionWarps; ++w) {
      scale[w] = exp_from(s.largest[w], largest);
      weight = fmaf(scale[w], s.weight[w], weight);
    }
    const int64_t out = ((n.b * a.nodes + n.node) * a.heads + n.head + h) * a.dim;
    for (int64_t d = thread_index(); d < a.dim; d += block_size()) {
      float sum = 0;
      for (int w = 0; w < kAttentionWarps; ++w) sum = fmaf(scale[w], s.sums[w * kAttentionDim + d], sum);
      if (a.dtype == kFloat32) static_cast<float*>(a.out)[out + d] = sum / weight;
      else static_cast<uint16_t*>(a.out)[out + d] = bfloat16_of(sum / weight);
    }
    block_sync();  // the next head uses the same memory
  }
}

template <int kHeads>
FD_DEVICE void attend(const TreeAttentionArgs& a, const AttentionNode& n, const AttentionScratch& s) {
  AttentionPart<kHeads> part;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    part.largest[h] = -INFINITY, part.weight[h] = 0;
    for (int j = 0; j < kAttentionPairs; ++j) part.sum[h][j][0] = part.sum[h][j][1] = 0;
  }
  const int warp = thread_index() / 32;
  for (int64_t begin = n.first + 32 * warp; begin < n.count; begin += 32 * kAttentionWarps)
    attend_tile<kHeads>(a, n, begin, int(n.count - begin < 32 ? n.count - begin : 32), warp, s.probs, s.slots, part);
  HeadFloats<kHeads> weight;
  for (int h = 0; h < kHeads; ++h) weight.value[h] = part.weight[h];
  weight = warp_reduce(weight, AddHeads());
  for (int h = 0; h < kHeads; ++h) part.weight[h] = weight.value[h];
  merge_warps<kHeads>(a, n, part, s);
}

FD_KERNEL tree_attention_kernel(TreeAttentionArgs a) {
  FD_SHARED(float, probs, kAttentionWarps * kAttentionHeads * 32);
  FD_SHARED(int32_t, slots, kAttentionWarps * 32);
  FD_SHARED(float, largest, kAttentionWarps);
  FD_SHARED(float, weight, kAttentionWarps);
  FD_SHARED(float, sums, kAttentionWarps * kAttentionDim);
  const AttentionScratch scratch{probs, slots, largest, weight, sums};
  const AttentionNode n = attention_node(a, block_index());
  if (n.heads == 1) attend<1>(a, n, scratch);
  else if (n.heads == 2) attend<2>(a, n, scratch);
  else attend<kAttentionHeads>(a, n, scratch);
}

}  // namespace fastdecode
