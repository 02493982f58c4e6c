#include "runtime/token_set.h"

namespace fastdecode {

void TokenSet::open(int32_t row, int32_t length, int64_t count) {
  rows.push_back(row);
  first_slot.push_back(length);
  slot_count.push_back(int32_t(count));
  begin.push_back(begin.back() + int32_t(count));
}

void TokenSet::add_chain(int32_t row, int32_t length, const int32_t* tokens, int64_t count) {
  open(row, length, count);
  for (int32_t i = 0; i < count; ++i) {
    token.push_back(tokens[i]);
    position.push_back(length + i);
    slot.push_back(length + i);
    dense_end.push_back(length + i + 1);
    tail_begin.push_back(int32_t(tail.size()));
  }
}

void TokenSet::add_tree(int32_t row, int32_t length, const int32_t* tokens, const int32_t* parents, int64_t count) {
  open(row, length, count);
  const int64_t first = size();
  for (int32_t i = 0; i < count; ++i) {
    const int64_t parent = first + parents[i];
    const bool root = parents[i] < 0;
    token.push_back(tokens[i]);
    position.push_back(root ? length : position[parent] + 1);
    slot.push_back(length + i);
    const bool in_place = slot.back() == position.back() && (root || visible_end(parent) == dense_end[parent]);
    if (in_place) {
      dense_end.push_back(position.back() + 1);
    } else {
      dense_end.push_back(root ? length : dense_end[parent]);
      if (!root)
        for (int32_t t = tail_begin[parent]; t < tail_begin[parent + 1]; ++t) tail.push_back(int32_t(tail[t]));
      tail.push_back(slot.back());
    }
    tail_begin.push_back(int32_t(tail.size()));
    wanted.push_back(int32_t(first + i));
  }
}

}  // namespace fastdecode
