// Score-swap by one block of threads: the plan of a node, and what the drafts leave of its law.
#pragma once

#include "fastdecode/law.cuh"
#include "fastdecode/residual.cuh"
#include "fastdecode/transport_knots.cuh"
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
  Law p, q;
  TransportResidual residual;
  FD_HD double operator()(int64_t v) const { return residual_weight(residual, law_at(p, v), law_at(q, v)); }
};

struct TargetWeight {
  Law p;
  FD_HD double operator()(int64_t v) const { return double(law_at(p, v)); }
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

FD_DEVICE TransportTotals block_histogram(const Law& p, const Law& q, int64_t vocab, const TransportScratch& s) {
  for (int32_t k = thread_index(); k < kKnots; k += block_size()) s.mass[k] = 0;
  block_sync();
  TransportTotals totals{};
  for (int64_t v = thread_index(); v < vocab; v += block_size()) {
    const float w = law_at(p, v), mass = law_at(q, v);
    totals.sum += w >= 0 && mass >= 0 ? double(w) + double(mass) : double(NAN);
    if (!(totals.sum < kMostMass)) break;
    const TokenSplit split = split_ratio(token_ratio(w, mass));
    const int64_t whole = whole_mass(mass), upper = upper_mass(mass, split.share);
    if (whole > upper) atomic_add(s.mass, split.cell, uint64_t(whole - upper));
    if (upper) atomic_add(s.mass, split.cell + 1, uint64_t(upper));
    totals.draft += whole;
    totals.target += whole_mass(w);
  }
  block_sync();
  totals.sum = block_reduce(totals.sum, s.doubles, Add());
  if (!(totals.sum < kMostMass)) return totals;
  totals.draft = block_reduce(totals.draft, s.integers, Add());
  totals.target = block_reduce(totals.target, s.integers, Add());
  return totals;
}

FD_DEVICE TransportPlan block_plan(const Law& p, const Law& q, int64_t vocab, int32_t draws, double weight, double* arrays, const TransportScratch& s) {
  TransportPlan plan = transport_arrays(arrays);
  if (draws <= 0) return plan;
  const TransportTotals totals = block_histogram(p, q, vocab, s);
  if (!masses_are_laws(totals)) return plan;
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

}  // namespace fastdecode
