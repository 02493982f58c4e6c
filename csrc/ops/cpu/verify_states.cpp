// Copies and comparisons of short rows: memory is all the work there is, on every instruction set.
#include "ops/cpu/verify_states.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "ops/kernel.h"

namespace fastdecode {
namespace {

void check(const DraftStatesArgs& a) {
  check_candidates(a.begin, a.batch, a.rows);
  for (int64_t b = 0; b < a.batch; ++b)
    for (int64_t r = a.begin[b]; r < a.begin[b + 1]; ++r)
      if (a.position[r] < 0 || a.position[r] >= a.length) throw std::out_of_range("position of candidate " + std::to_string(r) + " is " + std::to_string(a.position[r]) + ", tokens has " + std::to_string(a.length) + " columns");
}

void draft(const DraftStatesArgs& a, int64_t b) {
  a.count[b] = int32_t(draft_count(a, b));
  for (int64_t k = 0; k < a.count[b]; ++k) {
    const int64_t out = (b * a.depth + k) * a.length;
    std::copy_n(a.tokens + b * a.length, a.length, a.draft_tokens + out);
    std::copy_n(a.changed + b * a.length, a.length, a.draft_changed + out);
    for (int64_t r = a.begin[b]; r < a.begin[b + 1]; ++r) {
      if (a.rank[r] < a.chosen[b] || a.rank[r] >= a.chosen[b] + k) continue;
      a.draft_tokens[out + a.position[r]] = a.ints[2 * r + 1];
      a.draft_changed[out + a.position[r]] = int32_t(a.step);
    }
  }
}

bool follows(const VerifyStatesArgs& a, int64_t b, int64_t later, int64_t from) {
  for (int64_t p = 0; p < a.length; ++p)
    if (!state_agrees(a, b, later, from, p)) return false;
  return true;
}

int32_t chain(const VerifyStatesArgs& a, int64_t b) {
  int32_t reached = 0;
  for (bool more = true; more;) {
    more = false;
    for (int32_t later = a.count[b] - 1; later > reached && !more; --later)
      if (follows(a, b, later, reached)) reached = later, more = true;
  }
  return reached;
}

}  // namespace

namespace scalar {

void draft_states(const DraftStatesArgs& a) {
  check(a);
  for (int64_t b = 0; b < a.batch; ++b) draft(a, b);
}

void verify_states(const VerifyStatesArgs& a) {
  for (int64_t b = 0; b < a.batch; ++b)
    if (a.count[b] < 1 || a.count[b] > a.depth) throw std::out_of_range("count of sequence " + std::to_string(b) + " is " + std::to_string(a.count[b]) + ", there is room for 1 to " + std::to_string(a.depth) + " drafts");
  for (int64_t b = 0; b < a.batch; ++b) a.reached[b] = chain(a, b);
}

}  // namespace scalar

static const Kernel<void (*)(const DraftStatesArgs&)> draft_kernel("draft_states", scalar::draft_states);
static const Kernel<void (*)(const VerifyStatesArgs&)> verify_kernel("verify_states", scalar::verify_states);
void draft_states(const DraftStatesArgs& args) { draft_kernel.get()(args); }
void verify_states(const VerifyStatesArgs& args) { verify_kernel.get()(args); }

}  // namespace fastdecode
