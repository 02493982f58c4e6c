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

namespace {

// The rows of a task, `group` for every token: their scores, which become weights in place, and the values that these weigh. Keys are
// counted from the start of the split.
class Rows {
 public:
  Rows(const AttentionArgs& a, const AttentionTask& task, float* scores)
      : a_(a), set_(a.set), k_(a.kernels), task_(task), scores_(scores), group_(a.shape.group()), rows_((task.end - task.begin) * group_), dim_(a.shape.dim), element_(bytes_of(k_.element)), start_(task.split * kSplit),
        first_new_(set_.first_slot[task.sequence] / kPanel * kPanel), ld_parts_(a.plan.splits * a.shape.part()), keys_(a.cache.keys(set_.rows[task.sequence], a.layer, task.head)), values_(a.cache.values(set_.rows[task.sequence], a.layer, task.head)) {
    find_keys();
  }

  void attend() {
    if (low_ >= high_) return;
    if (dense_ > low_) score(keys_ + start_ * a_.depth * element_, low_ / kPanel, (dense_ + kPanel - 1) / kPanel, scores_);
    if (tails_) score(keys_ + first_new_ * a_.depth * element_, 0, (set_.first_slot[task_.sequence] + set_.slot_count[task_.sequence] - first_new_ + kPanel - 1) / kPanel, scores_ + kSplit);
    for (int64_t r = 0; r < rows_; ++r) std::fill(part(r), part(r) + dim_, 0.0f);
    for (int64_t m = task_.begin; m < task_.end; ++m) make_weights(m, range(m));
    if (dense_ > low_) k_.weigh({scores_, a_.plan.ld * 4, value(start_), nullptr, dim_, rows_, low_, dense_, part(0), ld_parts_});
    for (int64_t m = task_.begin; m < task_.end; ++m) finish(m, range(m));
  }

 private:
  Range range(int64_t m) const { return range_in_split(set_, m, a_.shape.window, start_); }
  int64_t first_row(int64_t m) const { return (m - task_.begin) * group_; }
  float* part(int64_t r) const { return a_.parts + ((task_.head * set_.size() + task_.begin) * group_ + r) * ld_parts_ + task_.split * a_.shape.part(); }
  const char* value(int64_t slot) const { return values_ + slot * dim_ * element_; }
  // Weights of row r from key j on; those of a tail stand behind the split, as the scores of the step's own keys did.
  char* weights(int64_t r, int64_t j) const { return reinterpret_cast<char*>(scores_ + r * a_.plan.ld) + j * k_.weight_bytes; }
  int64_t tail(int64_t m, const Range& range) const { return set_.tail_begin[m] + (start_ + range.dense - set_.dense_end[m]); }  // in the list of the set

  // What any of the tokens needs, in whole steps.
  void find_keys() {
    for (int64_t m = task_.begin; m < task_.end; ++m) {
      const Range own = range(m);
      if (own.empty()) continue;
      low_ = std::min(low_, own.low);
      dense_ = std::max(dense_, own.dense);
      high_ = std::max(high_, own.high);
      tails_ |= own.has_tail();
    }
    const int64_t step = std::max(kPanel, k_.key_step);
    low_ = low_ / step * step;
    high_ = round_up(high_, step);
  }

  void score(const char* keys, int64_t begin, int64_t end, float* out) {
    const char* queries = a_.queries + (task_.head * set_.size() + task_.begin) * group_ * a_.depth * element_;
    k_.gemm({queries, a_.depth * element_, keys, rows_, a_.depth, begin, end, Epilogue::store, out, a_.plan.ld, nullptr, nullptr, 0, nullptr, false});
  }

  // Weights need no memory while they are made, so values are asked for, and what the pass multiplies with next.
  void ask(int64_t r) {
    const int64_t lines = std::max<int64_t>(0, dense_ - low_) * dim_ * element_ / 64;
    a_.stream.ask_ahead(kTurns);
    for (int64_t line = lines * r / rows_; line < lines * (r + 1) / rows_; ++line) __builtin_prefetch(value(start_ + low_) + 64 * line, 0, 2);
  }

  void make_weights(int64_t m, const Range& range) {
    const int64_t own = tail(m, range), tail_size = range.high - range.dense, from = tail_step(range, k_);
    for (int64_t r = first_row(m); r < first_row(m) + group_; ++r) {
      ask(r);
      if (range.empty()) {
        std::fill(weights(r, low_), weights(r, high_), 0);
        continue;
      }
      float* s = scores_ + r * a_.plan.ld;
      for (int64_t i = 0; i < tail_size; ++i) s[range.dense + i] = s[kSplit + set_.tail[own + i] - first_new_];
      part(r)[dim_ + 1] = k_.softmax(s, low_, range.low, range.high, high_, part(r) + dim_);
      if (tail_size == 0) continue;
      std::copy(weights(r, from), weights(r, range.high), weights(r, kSplit));
      std::fill(weights(r, from), weights(r, range.high), 0);
    }
  }

  void finish(int64_t m, const Range& range) {
    int32_t slots[kSplit];
    const int64_t from = tail_step(range, k_), dense = range.dense - from;
    if (range.has_tail()) {
      std::iota(slots, slots + dense, int32_t(start_ + from));
      std::copy_n(set_.tail.data() + tail(m, range), range.high - range.dense, slots + dense);
    }
    for (int64_t r = first_row(m); r < first_row(m) + group_; ++r) {
      a_.stream.ask_ahead(kTurns);
      if (range.has_tail()) k_.weigh({weights(r, kSplit), a_.plan.ld * 4, values_, slots, dim_, 1, 0, range.high - from, part(r), ld_parts_});
      if (a_.out && !range.empty()) k_.merge(part(r), a_.shape.part(), 1, dim_, a_.out + (m * a_.ld_out + (task_.head * group_ + r - first_row(m)) * dim_) * element_);
    }
  }

  const AttentionArgs& a_;
  const TokenSet& set_;
  const StepKernels& k_;
  const AttentionTask& task_;
  float* const scores_;
  const int64_t group_, rows_, dim_, element_, start_, first_new_, ld_parts_;
  const char *const keys_, *const values_;
  int64_t low_ = kSplit, dense_ = 0, high_ = 0;
  bool tails_ = false;
};

}  // namespace

void attend(const AttentionArgs& a, const AttentionTask& task, float* scratch) { Rows(a, task, scratch).attend(); }

}  // namespace fastdecode
