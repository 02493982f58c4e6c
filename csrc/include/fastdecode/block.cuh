// Cooperation inside a block.
#pragma once

#include "fastdecode/platform.cuh"

namespace fastdecode {

// Merge of the values of a warp, the same bits in every lane.
template <class T, class Merge>
FD_DEVICE T warp_reduce(T value, Merge merge) {
  for (int mask = 16; mask > 0; mask >>= 1) value = merge(value, warp_shuffle_xor(value, mask));
  return value;
}

// Merge of the values of all threads, the same bits in every thread: butterflies inside warps, then the warps in ascending order.
// `scratch` holds 32 values and may be used again at once.
template <class T, class Merge>
FD_DEVICE T block_reduce(T value, SharedPtr<T> scratch, Merge merge) {
  value = warp_reduce(value, merge);
  if (block_size() == 32) return value;
  if (thread_index() % 32 == 0) scratch[thread_index() / 32] = value;
  block_sync();
  T total = scratch[0];
  for (int warp = 1; warp < block_size() / 32; ++warp) total = merge(total, T(scratch[warp]));
  block_sync();
  return total;
}

struct Add {
  template <class T>
  FD_HD T operator()(T a, T b) const {
    return a + b;
  }
};

}  // namespace fastdecode
