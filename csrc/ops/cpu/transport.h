// Acceptance of several independent draws as optimal transport; see fastdecode/transport_grid.cuh.
#pragma once

#include <cstdint>

#include "fastdecode/law.cuh"
#include "fastdecode/transport_knots.cuh"
#include "fastdecode/transport_swaps.cuh"

namespace fastdecode {

// Plans of R rows, for n draws each.
struct TransportPlanArgs {
  Laws p, q;              // [R, V]
  const int32_t* draws;   // [R]
  const double* weight;   // [R] part of p that the row has to emit; null: 1
  int64_t rows, vocab;
  double* head;           // [R, 3] alpha, cap, threshold
  double* knots;          // [R, 5, kKnots] right, rate, base, need, give; also the workspace
};

struct VerifyTreeTransportArgs {
  const int32_t *tokens, *first_child, *next_sibling;  // [B, N]
  Laws p, q;                                           // [B, N, V]
  const int64_t* key;                                  // [B, 4]
  const int32_t *draw_offsets, *draw_tokens;           // [B, N + 1], [T]
  int64_t batch, nodes, vocab, draws;                  // draws: T
  double* workspace;                                   // see the functions; CUDA: [B, 5, kKnots], or for whole trees [B, kBlockWorkspace + N * kBlockFrame]
  int32_t *path, *accept_len, *next_token;             // [B, N], [B], [B]
};

void transport_plan(const TransportPlanArgs& args);
void verify_tree_transport(const VerifyTreeTransportArgs& args);
void verify_tree_transport_block(const VerifyTreeTransportArgs& args);  // workspace [threads, 5 + kMaxBlockDraws, kKnots]

// The plan of one node, in 5 arrays of kKnots; a token in proportion to what it leaves of p, -1 if nothing.
TransportPlan make_transport_plan(const Law& p, const Law& q, int64_t vocab, int32_t draws, double weight, double* arrays);
int32_t transport_race(const Law& p, const Law& q, int64_t vocab, const TransportResidual& residual, const Stream& stream);

// A token of p itself, -1 if an entry is NaN or infinite or none is positive.
int32_t target_race(const Law& p, int64_t vocab, const Stream& stream);

// The passes over the vocabulary, one table of functions per instruction set.
using TransportHistogramFn = TransportTotals (*)(const Law& p, const Law& q, int64_t vocab, int64_t* mass);  // mass [kKnots]
using TransportPlanFn = void (*)(TransportPlan& plan, const int64_t* mass, const TransportTotals& totals, int32_t draws, double weight);
using TransportRaceFn = int32_t (*)(const Law& p, const Law& q, int64_t vocab, const TransportResidual& residual, const Stream& stream);

#define FD_TRANSPORT(ns)                                                                                                       \
  namespace ns {                                                                                                               \
  TransportTotals transport_histogram(const Law& p, const Law& q, int64_t vocab, int64_t* mass);                               \
  void transport_knots(TransportPlan& plan, const int64_t* mass, const TransportTotals& totals, int32_t draws, double weight); \
  int32_t transport_race(const Law& p, const Law& q, int64_t vocab, const TransportResidual& residual, const Stream& stream);  \
  }
FD_TRANSPORT(scalar)
FD_TRANSPORT(avx2)
FD_TRANSPORT(avx512)
#undef FD_TRANSPORT

}  // namespace fastdecode
