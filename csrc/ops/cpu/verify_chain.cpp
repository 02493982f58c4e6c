// Token by token (2211.17192, 2302.01318) and block (2403.10444) verification. Rows are read only where a decision needs them.
#include "ops/cpu/verify_chain.h"

#include <algorithm>

#include "fastdecode/keys.cuh"
#include "ops/cpu/residual.h"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace {

// One row of the batch; positions count from 0.
struct Chain {
  const int32_t* tokens;
  const float *q, *p;
  const int64_t* key;
  int64_t num, vocab;

  Chain(const VerifyChainArgs& a, int64_t b)
      : tokens(a.tokens + b * a.length), q(a.q + b * a.length * a.vocab), p(a.p + b * (a.length + 1) * a.vocab), key(a.key + 4 * b),
        num(std::clamp<int64_t>(a.num[b], 0, a.length)), vocab(a.vocab) {}

  // Ids outside the vocabulary have no probability and are rejected.
  double at(const float* rows, int64_t i) const { return uint64_t(tokens[i]) < uint64_t(vocab) ? rows[i * vocab + tokens[i]] : 0; }
  double coin(int64_t i) const { return node_coin(key, i, 0); }
  ResidualRow residual(int64_t i, double scale) const { return {p + i * vocab, i < num ? q + i * vocab : nullptr, scale, vocab}; }
  int32_t follow(int64_t i, double scale) const { return race_residual(residual(i, scale), node_stream(key, i, kResidual)); }
};

struct Verdict {
  int64_t accepted;
  double scale;  // of p in the residual
};

Verdict token_rule(const Chain& c) {
  int64_t n = 0;
  while (n < c.num && c.coin(n) * c.at(c.q, n) < c.at(c.p, n)) ++n;
  return {n, 1};
}

// Joint acceptance weight of the first i + 1 tokens, given that of the first i.
double block_weight(const Chain& c, int64_t i, double before) {
  const double ratio = before * c.at(c.p, i) / c.at(c.q, i);
  return ratio >= 1 ? 1 : ratio;  // NaN stays
}

double block_weight_of(const Chain& c, int64_t count) {
  double weight = 1;
  for (int64_t i = 0; i < count; ++i) weight = block_weight(c, i, weight);
  return weight;
}

// The longest prefix whose own coin says yes. Searched from the end: the first success makes the passes over shorter prefixes needless.
Verdict block_rule(const Chain& c) {
  for (int64_t i = c.num; i > 0; --i) {
    const double weight = block_weight_of(c, i);
    double bar = weight;
    if (i < c.num) {
      const double mass = residual_mass(c.residual(i, weight)), total = mass + 1 - weight;
      bar = total == 0 ? 1 : mass / total;
    }
    if (c.coin(i - 1) < bar) return {i, i < c.num ? weight : 1};
  }
  return {0, 1};
}

template <Verdict (*rule)(const Chain&)>
void verify(const VerifyChainArgs& a) {
  parallel_for(a.batch, 4096 / (a.vocab + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) {
      const Chain chain(a, b);
      const Verdict verdict = rule(chain);
      a.accept_len[b] = int32_t(verdict.accepted);
      a.next_token[b] = chain.follow(verdict.accepted, verdict.scale);
    }
  });
}

const Kernel<void (*)(const VerifyChainArgs&)> chain_kernel("verify_chain", verify<token_rule>, FD_X86(verify<token_rule>), FD_X86(verify<token_rule>));
const Kernel<void (*)(const VerifyChainArgs&)> block_kernel("verify_block", verify<block_rule>, FD_X86(verify<block_rule>), FD_X86(verify<block_rule>));

}  // namespace

void verify_chain(const VerifyChainArgs& args) { chain_kernel.get()(args); }
void verify_block(const VerifyChainArgs& args) { block_kernel.get()(args); }

}  // namespace fastdecode
