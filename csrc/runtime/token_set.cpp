#include "runtime/token_set.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fastdecode {

void TokenSet::open(int32_t row, int32_t first, int32_t slots, int64_t count) {
  if (first < 0) throw std::invalid_argument("row " + std::to_string(row) + " has length " + std::to_string(first) + "; pass the number of its committed tokens, 0 or more");
  rows.push_back(row);
  first_slot.push_back(first);
  slot_count.push_back(slots);
  begin.push_back(begin.back() + int32_t(count));
}

TokenSet TokenSet::only(const std::vector<int32_t>& tokens) const {
  TokenSet result;
  result.rows = rows;
  result.first_slot = first_slot;
  result.slot_count = slot_count;
  for (const int32_t m : tokens) {
    result.wanted.push_back(int32_t(result.size()));
    result.token.push_back(token[m]);
    result.position.push_back(position[m]);
    result.slot.push_back(slot[m]);
    result.dense_end.push_back(dense_end[m]);
    result.tail.insert(result.tail.end(), tail.begin() + tail_begin[m], tail.begin() + tail_begin[m + 1]);
    result.tail_begin.push_back(int32_t(result.tail.size()));
  }
  for (size_t b = 0; b < rows.size(); ++b) result.begin.push_back(int32_t(std::lower_bound(tokens.begin(), tokens.end(), begin[b + 1]) - tokens.begin()));
  return result;
}

void TokenSet::add_chain(int32_t row, int32_t length, const int32_t* tokens, int64_t count) {
  open(row, length, int32_t(count), count);
  for (int32_t i = 0; i < count; ++i) {
    token.push_back(tokens[i]);
    position.push_back(length + i);
    slot.push_back(length + i);
    dense_end.push_back(length + i + 1);
    tail_begin.push_back(int32_t(tail.size()));
  }
}

void TokenSet::add_tree(int32_t row, int32_t length, const int32_t* tokens, const int32_t* parents, int64_t count, int64_t first) {
  if (first < 0 || first > count) throw std::invalid_argument("first = " + std::to_string(first) + " is not in 0 .. " + std::to_string(count));
  for (int64_t i = 0; i < count; ++i)
    if (parents[i] < -1 || parents[i] >= i) throw std::invalid_argument("parents[" + std::to_string(i) + "] = " + std::to_string(parents[i]) + " is not -1 or a node before it");
  open(row, length, int32_t(count), count - first);
  std::vector<int32_t> depth(count), in_place(count), path;  // in_place: nodes at the top of a path that are where plain decoding puts them
  for (int64_t i = 0; i < count; ++i) {
    const int32_t parent = parents[i];
    depth[i] = parent < 0 ? 0 : depth[parent] + 1;
    const int32_t above = parent < 0 ? 0 : in_place[parent];
    in_place[i] = depth[i] == i && above == depth[i] ? above + 1 : above;
    if (i < first) continue;
    path.clear();
    for (int32_t node = int32_t(i); node >= 0 && depth[node] >= in_place[i]; node = parents[node]) path.push_back(length + node);
    wanted.push_back(int32_t(size()));
    token.push_back(tokens[i]);
    position.push_back(length + depth[i]);
    slot.push_back(length + int32_t(i));
    dense_end.push_back(length + in_place[i]);
    tail.insert(tail.end(), path.rbegin(), path.rend());
    tail_begin.push_back(int32_t(tail.size()));
  }
}

void TokenSet::add_positions(int32_t row, const int32_t* tokens, const int32_t* positions, const int32_t* ends, int64_t count) {
  int32_t before = -1, last = 0;
  for (int64_t i = 0; i < count; before = positions[i++]) {
    if (positions[i] <= before || positions[i] >= ends[i])
      throw std::invalid_argument("positions[" + std::to_string(i) + "] = " + std::to_string(positions[i]) + " does not lie between the position before it and ends[" + std::to_string(i) + "] = " + std::to_string(ends[i]));
    last = std::max(last, ends[i]);
  }
  const int32_t first = count ? positions[0] : 0;
  open(row, first, last - first, count);
  for (int64_t i = 0; i < count; ++i) {
    token.push_back(tokens[i]);
    position.push_back(positions[i]);
    slot.push_back(positions[i]);
    dense_end.push_back(ends[i]);
    tail_begin.push_back(int32_t(tail.size()));
  }
}

}  // namespace fastdecode
