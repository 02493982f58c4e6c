#pragma once

#include <cstdint>

#include "ops/cpu/unmask_commit.h"

namespace fastdecode {

// Draft and verification of the states of a canvas that come next (FreeDave, arXiv:2510.00294). Draft k of a sequence is its state with
// the k best proposals more that were not committed: draft 0 is the state itself. One mask at least is left in each.
struct DraftStatesArgs {
  const int32_t* ints;       // [R, 2] as vocab_stats writes them; the proposal is the sample
  const int32_t* begin;      // [B + 1] first candidate of each sequence
  const int32_t* position;   // [R] column of `tokens`
  const int32_t* rank;       // [R], [B]: as unmask_commit writes them
  const int32_t* chosen;
  int64_t rows, batch, depth;
  int64_t step;              // written to `draft_changed` where a token is drafted
  const int32_t* tokens;     // [B, length]
  const int32_t* changed;
  int64_t length;
  int32_t* draft_tokens;     // [B, depth, length] out; of drafts that there are
  int32_t* draft_changed;
  int32_t* count;            // [B] out: drafts, from 1 to depth
};

// How far a chain of drafts goes. A draft that says nothing else than the successor of an earlier one is the state that comes next.
struct VerifyStatesArgs {
  const int32_t* tokens;        // [B, depth, length] drafts
  const int32_t* changed;
  const int32_t* next_tokens;   // [B, depth, length] what a step makes of each
  const int32_t* next_changed;
  const int32_t* count;         // [B] drafts of a sequence
  int64_t batch, depth, length;
  int32_t* reached;             // [B] out: the last draft that is certain
};

FD_HD static inline int64_t draft_count(const DraftStatesArgs& a, int64_t b) {
  const int64_t left = int64_t(a.begin[b + 1]) - a.begin[b] - a.chosen[b];
  return left < 1 ? 1 : left < a.depth ? left : a.depth;
}

// Whether column p of draft `later` agrees with the successor of draft `from`.
FD_HD static inline bool state_agrees(const VerifyStatesArgs& a, int64_t b, int64_t later, int64_t from, int64_t p) {
  const int64_t x = (b * a.depth + later) * a.length + p, y = (b * a.depth + from) * a.length + p;
  return a.changed[x] == kStillMasked || (a.next_changed[y] != kStillMasked && a.tokens[x] == a.next_tokens[y]);
}

// Both throw std::out_of_range, before anything is written, for positions, candidates or counts outside their arrays.
void draft_states(const DraftStatesArgs& args);
void verify_states(const VerifyStatesArgs& args);

}  // namespace fastdecode
