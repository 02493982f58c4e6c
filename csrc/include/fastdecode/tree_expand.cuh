// One block per node: every pass over the row finds the next child below the one before it. Children are few.
#pragma once

#include <cmath>

#include "fastdecode/block.cuh"
#include "fastdecode/elements.cuh"
#include "ops/cpu/tree_expand.h"

namespace fastdecode {

struct Candidate {
  float logit;
  int32_t id, nan;
  FD_HD bool before(const Candidate& other) const { return logit > other.logit || (logit == other.logit && uint32_t(id) < uint32_t(other.id)); }
};

struct MergeCandidates {
  FD_HD Candidate operator()(const Candidate& a, const Candidate& b) const {
    const Candidate& first = a.before(b) ? a : b;
    return Candidate{first.logit, first.id, a.nan | b.nan};
  }
};

FD_KERNEL tree_expand_kernel(TreeExpandArgs a) {
  FD_SHARED(Candidate, candidates, 32);
  FD_SHARED(double, sums, 32);
  const int64_t row = block_index();
  const int dtype = int(a.dtype);
  double total = 0, top = 0;
  Candidate last{INFINITY, -1, 0};
  for (int64_t child = 0; child < a.k; ++child) {
    Candidate best{-INFINITY, -1, 0};
    for (int64_t v = thread_index(); v < a.vocab; v += block_size()) {
      const Candidate here{element_at(a.logits, dtype, row * a.stride + v), int32_t(v), 0};
      best.nan |= here.logit != here.logit;
      if ((child == 0 || last.before(here)) && here.before(best)) best = Candidate{here.logit, here.id, best.nan};
    }
    best = block_reduce(best, candidates, MergeCandidates());
    const bool none = best.id < 0 || best.logit == -INFINITY || (child == 0 && (best.nan || best.logit == INFINITY));
    if (none) {
      for (int64_t c = child + thread_index(); c < a.k; c += block_size()) a.ids[row * a.k + c] = -1, a.child_scores[row * a.k + c] = 0;
      return;
    }
    if (child == 0) {
      top = best.logit;
      double own = 0;
      for (int64_t v = thread_index(); v < a.vocab; v += block_size()) own += double(expf(float(element_at(a.logits, dtype, row * a.stride + v) - top)));
      total = block_reduce(own, sums, Add());
    }
    if (thread_index() == 0) {
      a.ids[row * a.k + child] = best.id;
      a.child_scores[row * a.k + child] = float(double(a.scores[row]) / total * exp(double(best.logit) - top));
    }
    last = best;
  }
}

}  // namespace fastdecode
