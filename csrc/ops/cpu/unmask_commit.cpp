// A few hundred candidates per sequence: sorting them is all the work there is, on every instruction set.
#include "ops/cpu/unmask_commit.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {
namespace {

void check(const UnmaskCommitArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b) {
    if (a.begin[b] < 0 || a.begin[b] > a.begin[b + 1] || a.begin[b + 1] > a.rows) throw std::out_of_range("begin of sequence " + std::to_string(b) + " is " + std::to_string(a.begin[b]) + ", it must ascend within the " + std::to_string(a.rows) + " candidates");
    for (int64_t r = a.begin[b]; r < a.begin[b + 1]; ++r)
      if (a.position[r] < 0 || a.position[r] >= a.stride || (r > a.begin[b] && a.position[r] <= a.position[r - 1]))
        throw std::out_of_range("position of candidate " + std::to_string(r) + " is " + std::to_string(a.position[r]) + ", it must ascend within the " + std::to_string(a.stride) + " columns of tokens");
  }
}

void commit_sequence(const UnmaskCommitArgs& a, int64_t b) {
  const int64_t begin = a.begin[b], end = a.begin[b + 1];
  for (int64_t r = begin; r < end; ++r) {
    a.scores[r] = unmask_score(a, b, r);
    a.rank[r] = int32_t(r);
  }
  int32_t* order = a.rank + begin;
  std::sort(order, a.rank + end, [&](int32_t x, int32_t y) { return a.scores[x] > a.scores[y] || (a.scores[x] == a.scores[y] && x < y); });
  int64_t count = 0;
  for (int64_t i = begin; i < end; ++i) {
    a.sorted[i] = a.scores[a.rank[i]];
    count += a.sorted[i] > -__builtin_inff();
  }
  const int64_t best = count == 0 ? 0 : std::min(count, std::max<int64_t>(a.quota[b], unmask_count(a, a.sorted + begin, count)));
  a.chosen[b] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t r = order[i];
    if (i >= best && !(a.accepted && a.accepted[r])) continue;
    a.tokens[b * a.stride + a.position[r]] = a.ints[2 * r + 1];
    a.changed[b * a.stride + a.position[r]] = int32_t(a.step);
    ++a.chosen[b];
  }
}

}  // namespace

namespace scalar {

void unmask_commit(const UnmaskCommitArgs& a) {
  check(a);
  parallel_for(a.batch, 1 + 1024 * a.batch / std::max<int64_t>(1, a.rows), [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; ++b) {
      commit_sequence(a, b);
      // From the order to ranks, through the scratch that is free now.
      for (int64_t i = a.begin[b]; i < a.begin[b + 1]; ++i) a.sorted[a.rank[i]] = float(i - a.begin[b]);
      for (int64_t i = a.begin[b]; i < a.begin[b + 1]; ++i) a.rank[i] = int32_t(a.sorted[i]);
    }
  });
}

}  // namespace scalar

static const Kernel<void (*)(const UnmaskCommitArgs&)> kernel("unmask_commit", scalar::unmask_commit);
void unmask_commit(const UnmaskCommitArgs& args) { kernel.get()(args); }

}  // namespace fastdecode
