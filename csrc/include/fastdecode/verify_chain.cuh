// One block verifies one chain; every thread takes the same decisions, the passes over the vocabulary are shared.
#pragma once

#include "fastdecode/keys.cuh"
#include "fastdecode/residual.cuh"
#include "ops/cpu/verify_chain.h"

namespace fastdecode {

struct ChainRow {
  const int32_t* tokens;
  const float *q, *p;
  const int64_t* key;
  int64_t num, vocab;

  // Ids outside the vocabulary have no probability and are rejected.
  FD_HD double at(const float* rows, int64_t i) const { return uint64_t(tokens[i]) < uint64_t(vocab) ? double(rows[i * vocab + tokens[i]]) : 0; }
  FD_HD double coin(int64_t i) const { return node_coin(key, i, 0); }
  FD_HD ResidualWeight residual(int64_t i, double scale) const { return {p + i * vocab, i < num ? q + i * vocab : nullptr, scale}; }
};

FD_HD static inline ChainRow chain_row(const VerifyChainArgs& a, int64_t b) {
  const int64_t num = a.num[b] < 0 ? 0 : a.num[b] > a.length ? a.length : a.num[b];
  return {a.tokens + b * a.length, a.q + b * a.length * a.vocab, a.p + b * (a.length + 1) * a.vocab, a.key + 4 * b, num, a.vocab};
}

FD_DEVICE void finish_chain(const VerifyChainArgs& a, const ChainRow& c, int64_t accepted, double scale, const RowScratch& scratch) {
  const int32_t next = block_race_residual(c.residual(accepted, scale), c.vocab, node_stream(c.key, accepted, kResidual), scratch);
  if (thread_index() == 0) a.accept_len[block_index()] = int32_t(accepted), a.next_token[block_index()] = next;
}

FD_KERNEL verify_chain_kernel(VerifyChainArgs a) {
  FD_SHARED(Race, races, 32);
  FD_SHARED(double, sums, 32);
  const ChainRow c = chain_row(a, block_index());
  int64_t n = 0;
  while (n < c.num && c.coin(n) * c.at(c.q, n) < c.at(c.p, n)) ++n;
  finish_chain(a, c, n, 1, RowScratch{races, sums});
}

// Weight of the first `count` tokens: w <- min(1, w p / q), NaN stays.
FD_HD static inline double prefix_weight(const ChainRow& c, int64_t count) {
  double weight = 1;
  for (int64_t i = 0; i < count; ++i) {
    weight = weight * c.at(c.p, i) / c.at(c.q, i);
    if (weight >= 1) weight = 1;
  }
  return weight;
}

FD_KERNEL verify_block_kernel(VerifyChainArgs a) {
  FD_SHARED(Race, races, 32);
  FD_SHARED(double, sums, 32);
  const RowScratch scratch{races, sums};
  const ChainRow c = chain_row(a, block_index());
  // From the longest prefix downwards: the first success makes the passes over shorter ones needless.
  int64_t accepted = c.num;
  double scale = 1;
  for (; accepted > 0; --accepted) {
    const double weight = prefix_weight(c, accepted);
    double bar = weight;
    if (accepted < c.num) {
      const double mass = block_mass(c.residual(accepted, weight), c.vocab, scratch), total = mass + 1 - weight;
      bar = total == 0 ? 1 : mass / total;
    }
    if (c.coin(accepted - 1) < bar) {
      scale = accepted < c.num ? weight : 1;
      break;
    }
  }
  finish_chain(a, c, accepted, scale, scratch);
}

}  // namespace fastdecode
