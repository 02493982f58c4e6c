#pragma once

#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

// Which positions a step of masked diffusion computes again: those of [low, high) that changed after `since`.
struct ActiveSetArgs {
  const int32_t* changed;  // [B, stride] step at which a position got its token; large while it has none
  int64_t stride;
  const int32_t* low;      // [B]
  const int32_t* high;     // [B]
  const int32_t* since;    // [B]
  int64_t batch;
  int64_t shift;           // 1: also the left neighbours of such positions, whose outputs propose their tokens
  int32_t* positions;      // [B, stride] out, ascending; what is behind `count` is not written
  int32_t* count;          // [B] out
};

FD_HD static inline bool is_active(const ActiveSetArgs& a, int64_t b, int64_t p) {
  const int32_t* changed = a.changed + b * a.stride;
  return changed[p] > a.since[b] || (a.shift && p + 1 < a.high[b] && changed[p + 1] > a.since[b]);
}

// Throws std::out_of_range when a window leaves the row.
void active_set(const ActiveSetArgs& args);

}  // namespace fastdecode
