// Attention of a step over the cache: each token over its own ordered list of visible keys.
#pragma once

#include <vector>

#include "runtime/kv_cache.h"
#include "runtime/token_set.h"

namespace fastdecode {

constexpr int64_t kSplit = 512;  // keys whose softmax is taken together; splits start at absolute positions

// Tokens [begin, end) of a sequence with one key/value head and one split of the positions.
struct AttentionTask {
  int32_t sequence, head, begin, end, split;
};

struct AttentionShape {
  int64_t heads, kv_heads, dim, window;
  int64_t group() const { return heads / kv_heads; }
  int64_t part() const { return dim + kPanel; }  // floats of a partial result: weighted values, sum, maximum
};

struct AttentionPlan {
  std::vector<AttentionTask> tasks;
  int64_t splits = 1;          // more than one: partial results have to be merged
  int64_t rows = 0, ld = 0;    // largest score tile of a task
  int64_t scratch_floats() const { return rows * ld; }
};

// Results do not depend on the number of members that will share out the tasks.
AttentionPlan plan_attention(const TokenSet& set, const AttentionShape& shape, int members);

struct AttentionArgs {
  const TokenSet& set;
  const AttentionShape& shape;
  const AttentionPlan& plan;
  KvCache& cache;
  const StepKernels& kernels;
  int64_t layer, depth;
  const char* queries;  // elements [kv_heads, M, group, depth], scaled
  float* parts;         // [kv_heads, M, group, splits, part()]
  char* out;            // elements [M, ld_out] of the finished rows when there is one split; null: merge the parts later
  int64_t ld_out;
  WeightStream& stream;  // of the member, which asks for weights meanwhile
};

void attend(const AttentionArgs& args, const AttentionTask& task, float* scratch);

// Range of splits that hold keys visible to token m.
struct SplitRange {
  int64_t first, last;
};
SplitRange visible_splits(const TokenSet& set, int64_t m, int64_t window);

}  // namespace fastdecode
