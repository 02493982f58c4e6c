// Which tokens a step computes and what each of them sees.
#pragma once

#include <cstdint>
#include <vector>

namespace fastdecode {

// M tokens of B sequences, those of one sequence side by side. A token writes its key and value to `slot` and sees the keys of
// the slots 0 ... dense_end - 1 (which hold the positions of the same number) and then those of its tail, at the positions from
// dense_end on. A tree node's tail is the part of its path that is not where plain decoding would have put it.
struct TokenSet {
  std::vector<int32_t> rows;                       // [B] cache rows
  std::vector<int32_t> begin{0};                   // [B + 1] first token of each sequence
  std::vector<int32_t> first_slot, slot_count;     // [B] range of slots that the tokens of a sequence write
  std::vector<int32_t> token, position, slot, dense_end;  // [M]
  std::vector<int32_t> tail_begin{0};              // [M + 1]
  std::vector<int32_t> tail;                       // slots
  std::vector<int32_t> wanted;                     // tokens whose logits are asked for, ascending

  int64_t size() const { return int64_t(token.size()); }
  int64_t visible_end(int64_t m) const { return dense_end[m] + tail_begin[m + 1] - tail_begin[m]; }

  // Some of the tokens, ascending, which write to the same slots and see the same keys. Wants all logits.
  TokenSet only(const std::vector<int32_t>& tokens) const;

  // Tokens that follow `length` committed ones, each seeing all before it.
  void add_chain(int32_t row, int32_t length, const int32_t* tokens, int64_t count);

  // The nodes of a tree behind `length` committed tokens: node i goes to slot length + i and sees its ancestors. Wants all logits.
  // Nodes before `first` were computed by an earlier pass, and are only seen.
  // Throws std::invalid_argument unless every parent stands before its children.
  void add_tree(int32_t row, int32_t length, const int32_t* tokens, const int32_t* parents, int64_t count, int64_t first = 0);

  // Tokens at ascending positions, whose slots they overwrite, each seeing the positions 0 ... end - 1 whatever its own:
  // blocks whose tokens see each other. The caller answers for slots that nothing was ever written to.
  // Throws std::invalid_argument unless positions ascend and lie below their ends.
  void add_positions(int32_t row, const int32_t* tokens, const int32_t* positions, const int32_t* ends, int64_t count);

 private:
  void open(int32_t row, int32_t first, int32_t slots, int64_t count);
};

}  // namespace fastdecode
