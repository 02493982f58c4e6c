#include "runtime/attention.h"

#include <algorithm>
#include <numeric>

namespace fastdecode {
namespace {

constexpr int64_t kTaskRows = 96;  // query rows that share a pass over the keys,
constexpr int64_t kFewTokens = 2;  // tokens that do even where there are members to spare
constexpr int64_t kMostKeyStep = 32;
constexpr int kTurns = 4;          // weights asked for beside a row, in fours of lines

int64_t lowest(const TokenSet& set, int64_t m, int64_t window) { return window ? std::max<int64_t>(0, set.position[m] - window + 1) : 0; }

// Of one token, relative to a split: visible positions [low, high), of which those from `dense` on are in the tail.
struct Range {
  int64_t low, dense, high;
  bool empty() const { return low >= high; }
  bool has_tail() const { return dense < high; }
};

Range range_in_split(const TokenSet& set, int64_t m, int64_t window, int64_t start) {
  const auto clip = [&](int64_t position) { return std::min(std::max<int64_t>(position - start, 0), kSplit); };
  const int64_t low = clip(lowest(set, m, window)), high = clip(set.visible_end(m));
  return {low, std::min(std::max(clip(set.dense_end[m]), low), high), high};
}

// Where the step of keys begins that the tail's first key belongs to: from there on a token's keys are added up by themselves.
int64_t tail_step(const Range& range, const StepKernels& kernels) { return range.dense / kernels.key_step * kernels.key_step; }

// Tasks of up to `size` tokens.
AttentionPlan plan_tasks(const TokenSet& set, const AttentionShape& shape, int64_t size) {
  AttentionPlan plan;
  int64_t slots = 0;
  for (size_t b = 0; b < set.rows.size(); ++b) {
    if (set.tail_begin[set.begin[b + 1]] > set.tail_begin[set.begin[b]]) slots = std::max<int64_t>(slots, set.slot_count[b]);
    const size_t first_task = plan.tasks.size();  // of head 0
    for (int64_t begin = set.begin[b]; begin < set.begin[b + 1]; begin += size) {
      const int64_t end = std::min<int64_t>(begin + size, set.begin[b + 1]);
      SplitRange range{INT64_MAX, 0};
      for (int64_t m = begin; m < end; ++m) {
        const SplitRange own = visible_splits(set, m, shape.window);
        range = {std::min(range.first, own.first), std::max(range.last, own.last)};
      }
      plan.splits = std::max(plan.splits, range.last + 1);
      plan.rows = std::max(plan.rows, (end - begin) * shape.group());
      for (int64_t split = range.first; split <= range.last; ++split) plan.tasks.push_back({int32_t(b), 0, int32_t(begin), int32_t(end), int32_t(split)});
    }
    const size_t tasks = plan.tasks.size() - first_task;
    for (int64_t head = 1; head < shape.kv_heads; ++head)
      for (size_t i = 0; i < tasks; ++i) {
        plan.tasks.push_back(plan.tasks[first_task + i]);
        plan.tasks.back().head = int32_t(head);
      }
  }
  plan.ld = kSplit + round_up(slots, kPanel) + 2 * kMostKeyStep;
  return plan;
}

}  // namespace

SplitRange visible_splits(const TokenSet& set, int64_t m, int64_t window) { return {lowest(set, m, window) / kSplit, (set.visible_end(m) - 1) / kSplit}; }

AttentionPlan plan_attention(const TokenSet& set, const AttentionShape& shape, int members) {
  int64_t size = std::max<int64_t>(1, kTaskRows / shape.group());
  AttentionPlan plan = plan_tasks(set, shape, size);
  while (members > 1 && int64_t(plan.tasks.size()) < 2 * members && size > kFewTokens) {
    size = std::max(kFewTokens, (std::min(size, set.size()) + 1) / 2);
    plan = plan_tasks(set, shape, size);
  }
  return plan;
}

void attend(const AttentionArgs& a, const AttentionTask& task, float* scratch) {
  const TokenSet& set = a.set;
  const int64_t group = a.shape.group(), rows = (task.end - task.begin) * group, dim = a.shape.dim, ld = a.plan.ld, start = task.split * kSplit;
  const int64_t element = bytes_of(a.kernels.element), row = set.rows[task.sequence];
  const char *keys = a.cache.keys(row, a.layer, task.head), *values = a.cache.values(row, a.layer, task.head);
  float* scores = scratch;
  const int64_t ld_parts = a.plan.splits * a.shape.part();
  float* parts = a.parts + (task.head * set.size() + task.begin) * group * ld_parts + task.split * a.shape.part();

  int64_t low = kSplit, dense = 0, high = 0;  // that any token needs
  bool tails = false;
  for (int64_t m = task.begin; m < task.end; ++m) {
    const Range r = range_in_split(set, m, a.shape.window, start);
    if (r.empty()) continue;
    low = std::min(low, r.low);
    dense = std::max(dense, r.dense);
    high = std::max(high, r.high);
    tails |= r.has_tail();
  }
  if (low >= high) return;
  const int64_t step = std::max(kPanel, a.kernels.key_step);
  low = low / step * step;
  high = round_up(high, step);

  const char* queries = a.queries + (task.head * set.size() + task.begin) * group * a.depth * element;
  PanelGemm dot{queries, a.depth * element, keys + start * a.depth * element, rows, a.depth, low / kPanel, (dense + kPanel - 1) / kPanel, Epilogue::store, scores, ld, nullptr, nullptr, 0, nullptr, false};
  if (dense > low) a.kernels.gemm(dot);
  const int64_t new_slots = set.first_slot[task.sequence] / kPanel * kPanel;  // scores of the step's own keys stand behind the split's
  if (tails) {
    dot.w = keys + new_slots * a.depth * element;
    dot.panel_begin = 0;
    dot.panel_end = (set.first_slot[task.sequence] + set.slot_count[task.sequence] - new_slots + kPanel - 1) / kPanel;
    dot.out = scores + kSplit;
    a.kernels.gemm(dot);
  }
  for (int64_t r = 0; r < rows; ++r) std::fill(parts + r * ld_parts, parts + r * ld_parts + dim, 0.0f);

  // The values are asked for while the scores become weights, which needs no memory.
  const char* const first_value = values + (start + low) * dim * element;
  const int64_t value_lines = std::max<int64_t>(0, dense - low) * dim * element / 64;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t m = task.begin + r / group;
    const Range range = range_in_split(set, m, a.shape.window, start);
    a.stream.ask_ahead(kTurns);
    for (int64_t line = value_lines * r / rows; line < value_lines * (r + 1) / rows; ++line) __builtin_prefetch(first_value + 64 * line, 0, 2);
    float* s = scores + r * ld;
    if (range.empty()) {
      std::fill(s + low, s + high, 0.0f);
      continue;
    }
    const int64_t tail = set.tail_begin[m] + (start + range.dense - set.dense_end[m]), tail_size = range.high - range.dense;
    for (int64_t i = 0; i < tail_size; ++i) s[range.dense + i] = s[kSplit + set.tail[tail + i] - new_slots];
    float* part = parts + r * ld_parts;
    part[dim + 1] = a.kernels.softmax(s, low, range.low, range.high, high, part + dim);
    if (tail_size == 0) continue;
    const int64_t from = tail_step(range, a.kernels);
    std::copy(s + from, s + range.high, s + kSplit);
    std::fill(s + from, s + range.high, 0.0f);
  }
  if (dense > low) a.kernels.weigh({scores, ld, values + start * dim * element, nullptr, dim, rows, low, dense, parts, ld_parts});

  for (int64_t r = 0; r < rows; ++r) {
    const int64_t m = task.begin + r / group;
    const Range range = range_in_split(set, m, a.shape.window, start);
    a.stream.ask_ahead(kTurns);
    if (range.empty()) continue;
    if (range.has_tail()) {
      const int32_t* tail = set.tail.data() + set.tail_begin[m] + (start + range.dense - set.dense_end[m]);
      const int64_t from = tail_step(range, a.kernels), count = range.dense - from;
      int32_t slots[kSplit];
      std::iota(slots, slots + count, int32_t(start + from));
      std::copy(tail, tail + (range.high - range.dense), slots + count);
      a.kernels.weigh({scores + r * ld + kSplit, ld, values, slots, dim, 1, 0, range.high - from, parts + r * ld_parts, ld_parts});
    }
    if (a.out) a.kernels.merge(parts + r * ld_parts, a.shape.part(), 1, dim, a.out + (m * a.ld_out + (task.head * group + r % group) * dim) * element);
  }
}

}  // namespace fastdecode
