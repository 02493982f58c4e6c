// Score-swap verification: plans from the histogram over ratio knots, and the walk down a tree.
#define FD_SIMD_NAMESPACE scalar
#include "ops/cpu/simd_scalar.h"
#include "ops/cpu/transport_cells.h"

#include <cmath>

namespace fastdecode {
namespace scalar {

static void split_block(const float* p, const float* q, int64_t count, Cells& cells, TransportTotals& totals) {
  for (int64_t v = 0; v < count; ++v) {
    totals.sum += p[v] >= 0 && q[v] >= 0 ? double(p[v]) + double(q[v]) : NAN;
    if (!(totals.sum < kMostMass)) return;
    const TokenSplit split = split_ratio(token_ratio(p[v], q[v]));
    Cell& cell = cells[v % kCopies][split.cell];
    cell.whole += whole_mass(q[v]);
    cell.upper += upper_mass(q[v], split.share);
    totals.target += whole_mass(p[v]);
  }
}

}  // namespace scalar
}  // namespace fastdecode

#include "ops/cpu/transport_body.h"

#include <algorithm>

#include "fastdecode/keys.cuh"
#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace {

#define FD_LEVELS(fn) scalar::fn, FD_X86(avx2::fn), FD_X86(avx512::fn)
const Kernel<TransportHistogramFn> histogram_kernel("transport_histogram", FD_LEVELS(transport_histogram));
const Kernel<TransportPlanFn> knots_kernel("transport_knots", FD_LEVELS(transport_knots));
const Kernel<TransportRaceFn> race_kernel("transport_race", FD_LEVELS(transport_race));
#undef FD_LEVELS

}  // namespace

int32_t transport_race(const Law& p, const Law& q, int64_t vocab, const TransportResidual& residual, const Stream& stream) { return race_kernel.get()(p, q, vocab, residual, stream); }
int32_t target_race(const Law& p, int64_t vocab, const Stream& stream) { return transport_race(p, Law{}, vocab, TransportResidual{}, stream); }

TransportPlan make_transport_plan(const Law& p, const Law& q, int64_t vocab, int32_t draws, double weight, double* arrays) {
  TransportPlan plan = transport_arrays(arrays);
  int64_t mass[kKnots];
  const TransportTotals totals = draws > 0 ? histogram_kernel.get()(p, q, vocab, mass) : TransportTotals{};
  if (!masses_are_laws(totals)) {
    std::fill(arrays, arrays + kTransportArrays * kKnots, 0.0);
    return plan;
  }
  knots_kernel.get()(plan, mass, totals, draws, weight);
  return plan;
}

namespace {

struct Kept {
  int32_t token;
  bool drawn;
};

Kept verify_node(const VerifyTreeTransportArgs& a, int64_t b, int32_t node) {
  const int64_t row = b * a.nodes + node;
  const Law p = law_of(a.p, row, a.vocab), q = law_of(a.q, row, a.vocab);
  const int64_t* key = a.key + 4 * b;
  const Stream last = node_stream(key, node, kResidual);
  const int32_t* offset = a.draw_offsets + b * (a.nodes + 1) + node;
  const int32_t *begin = a.draw_tokens + std::max(0, offset[0]), *end = a.draw_tokens + std::min<int64_t>(offset[1], a.draws);
  int32_t draws = 0;
  for (const int32_t* d = begin; d < end; ++d) draws += uint64_t(*d) < uint64_t(a.vocab);
  double arrays[kTransportArrays * kKnots];
  const TransportPlan plan = make_transport_plan(p, q, a.vocab, draws, 1, arrays);
  if (plan.threshold > 1) return {target_race(p, a.vocab, last), false};
  const Stream coins = node_stream(key, node, kAccept);
  int32_t winner = -1;
  double best = -1;
  uint32_t draw = 0;
  for (const int32_t* d = begin; d < end; ++d) {
    if (uint64_t(*d) >= uint64_t(a.vocab)) continue;
    const double score = draft_score(plan, split_ratio(token_ratio(law_at(p, *d), law_at(q, *d))), coins, draw++);
    if (score > best) best = score, winner = *d;
  }
  if (best >= plan.threshold) return {winner, true};
  return {transport_race(p, q, a.vocab, transport_residual(plan.cap), last), false};
}

void verify_row(const VerifyTreeTransportArgs& a, int64_t b) {
  const int64_t row = b * a.nodes;
  std::fill(a.path + row, a.path + row + a.nodes, -1);
  int32_t node = 0, depth = 0;
  for (;; ++depth) {
    a.path[row + depth] = node;
    const Kept kept = verify_node(a, b, node);
    a.next_token[b] = kept.token;
    int32_t child = a.first_child[row + node];
    while (child >= 0 && a.tokens[row + child] != kept.token) child = a.next_sibling[row + child];
    if (child < 0) break;
    node = child;
  }
  a.accept_len[b] = depth;
}

void plan_rows(const TransportPlanArgs& a) {
  parallel_for(a.rows, 4096 / (a.vocab + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const TransportPlan plan = make_transport_plan(law_of(a.p, r, a.vocab), law_of(a.q, r, a.vocab), a.vocab, a.draws[r], a.weight ? a.weight[r] : 1, a.knots + r * kTransportArrays * kKnots);
      a.head[3 * r] = plan.alpha;
      a.head[3 * r + 1] = plan.cap;
      a.head[3 * r + 2] = plan.threshold;
    }
  });
}

void verify_rows(const VerifyTreeTransportArgs& a) {
  parallel_for(a.batch, 4096 / (a.vocab + 1) + 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t b = begin; b < end; ++b) verify_row(a, b);
  });
}

// Their passes over the vocabulary dispatch.
const Kernel<void (*)(const TransportPlanArgs&)> plan_kernel("transport_plan", plan_rows, FD_X86(plan_rows), FD_X86(plan_rows));
const Kernel<void (*)(const VerifyTreeTransportArgs&)> tree_kernel("verify_tree_transport", verify_rows, FD_X86(verify_rows), FD_X86(verify_rows));

}  // namespace

void transport_plan(const TransportPlanArgs& args) { plan_kernel.get()(args); }
void verify_tree_transport(const VerifyTreeTransportArgs& args) { tree_kernel.get()(args); }

}  // namespace fastdecode
