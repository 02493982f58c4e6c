// One warp per row: ballots keep the order.
#pragma once

#include "fastdecode/platform.cuh"
#include "ops/cpu/active_set.h"

namespace fastdecode {

FD_HD static inline int bit_count(uint32_t bits) {
  int n = 0;
  for (; bits; bits &= bits - 1) ++n;
  return n;
}

FD_KERNEL active_set_kernel(ActiveSetArgs a) {
  const int64_t b = block_index();
  const int32_t low = a.low[b] < 0 ? 0 : a.low[b], high = a.high[b] > a.stride ? int32_t(a.stride) : a.high[b];
  int32_t* out = a.positions + b * a.stride;
  int32_t n = 0;
  for (int32_t first = low; first < high; first += 32) {
    const int32_t p = first + thread_index();
    const bool active = p < high && is_active(a, b, p);
    const uint32_t votes = warp_ballot(active);
    if (active) out[n + bit_count(votes & ((1u << thread_index()) - 1))] = p;
    n += bit_count(votes);
  }
  if (thread_index() == 0) a.count[b] = n;
}

}  // namespace fastdecode
