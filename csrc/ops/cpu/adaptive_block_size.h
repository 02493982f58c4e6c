#pragma once

#include <cmath>
#include <cstdint>

#include "fastdecode/philox.cuh"

namespace fastdecode {

// Length of the next block (AdaBlock-dLLM, arXiv:2509.26432): up to the most confident delimiter that is proposed ahead.
struct AdaptiveBlockSizeArgs {
  const float* floats;        // [R, 16], [R, 2]: as vocab_stats writes them; the proposal is the sample
  const int32_t* ints;
  const int32_t* begin;       // [B + 1] first row of each sequence
  const int32_t* position;    // [R] ascending within a sequence
  const int32_t* start;       // [B] where the block begins
  const int32_t* reach;       // [B] how many positions from there are looked at
  const int32_t* remaining;   // [B] how many there are
  int64_t batch;
  const int32_t* delimiters;  // [D]
  int64_t delimiter_count;
  float bar;
  int64_t default_length;
  int32_t* length;            // [B] out
};

FD_HD static inline void adaptive_block_size_row(const AdaptiveBlockSizeArgs& a, int64_t b) {
  float best = -1;
  int32_t where = -1;
  for (int64_t r = a.begin[b]; r < a.begin[b + 1]; ++r) {
    if (a.position[r] < a.start[b] || a.position[r] >= a.start[b] + a.reach[b]) continue;
    bool delimiter = false;
    for (int64_t d = 0; d < a.delimiter_count; ++d) delimiter |= a.ints[2 * r + 1] == a.delimiters[d];
    const float confidence = delimiter ? float(exp(double(a.floats[16 * r + 5]) - double(a.floats[16 * r + 3]))) : -1;
    if (confidence > best) best = confidence, where = a.position[r];
  }
  const int32_t otherwise = a.default_length < a.remaining[b] ? int32_t(a.default_length) : a.remaining[b];
  a.length[b] = where >= 0 && best >= a.bar && best >= 0 ? where - a.start[b] + 1 : otherwise;
}

void adaptive_block_size(const AdaptiveBlockSizeArgs& args);

}  // namespace fastdecode
