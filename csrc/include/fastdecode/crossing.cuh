// Selection without a sort: where the running weight of a row, taken in descending order of its keys, reaches a target. Weights are
// integers, so sums do not depend on the order in which threads add them.
#pragma once

#include "fastdecode/block.cuh"

namespace fastdecode {

constexpr int kCrossingBins = 2048;

// Order-preserving map of floats to unsigned integers.
FD_HD static inline uint32_t descending_key(float f, uint32_t bits) {
  if (f == 0) return 0x80000000u;  // -0 and +0 are equal
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Crossing {
  uint32_t key;      // elements with larger keys are all needed, those with smaller keys are not
  uint64_t missing;  // what the larger keys leave of the target, above 0
  uint64_t mass;     // weight of the elements that have this key
};

struct CrossingScratch {
  SharedPtr<uint64_t> histogram;  // [kCrossingBins]
  SharedPtr<uint64_t> above;      // [32]
  SharedPtr<Crossing> found;      // [1]
};

struct PrefixSum {
  uint64_t before, total;
};

// Sum of the values of the threads with higher numbers, and of all threads.
FD_DEVICE PrefixSum block_sum_above(uint64_t value, SharedPtr<uint64_t> scratch) {
  PrefixSum sum{0, value};
  const int lane = thread_index() % 32, warp = thread_index() / 32;
  for (int mask = 1; mask < 32; mask <<= 1) {
    const uint64_t other = warp_shuffle_xor(sum.total, mask);
    if (!(lane & mask)) sum.before += other;  // the other half of the lanes lies above
    sum.total += other;
  }
  if (lane == 0) scratch[warp] = sum.total;
  block_sync();
  for (int w = 0; w < block_size() / 32; ++w) {
    if (w == warp) continue;
    const uint64_t other = scratch[w];
    if (w > warp) sum.before += other;
    sum.total += other;
  }
  block_sync();
  return sum;
}

// Picks the bin in which the running weight, from the highest bin down, reaches the target; a target beyond the total counts as
// the total. The histogram must be complete and its total positive.
FD_DEVICE Crossing crossing_bin(int bins, uint64_t target, const CrossingScratch& s) {
  const int per_thread = bins / block_size(), first = thread_index() * per_thread;
  uint64_t own = 0;
  for (int i = 0; i < per_thread; ++i) own += s.histogram[first + i];
  const PrefixSum sum = block_sum_above(own, s.above);
  if (target > sum.total) target = sum.total;
  if (sum.before < target && target <= sum.before + own) {
    uint64_t missing = target - sum.before;
    for (int i = per_thread - 1;; --i) {
      const uint64_t mass = s.histogram[first + i];
      if (missing <= mass) {
        s.found[0] = Crossing{uint32_t(first + i), missing, mass};
        break;
      }
      missing -= mass;
    }
  }
  block_sync();
  return s.found[0];
}

// key(i) and weight(i) of `count` elements; elements of weight 0 do not exist, there must be others. target > 0. The 32 bits of the
// key are settled 11, 11 and 10 at a time; only elements that agree with the bits settled so far are counted.
template <class Key, class Weight>
FD_DEVICE Crossing block_crossing(int64_t count, uint64_t target, const CrossingScratch& s, const Key& key, const Weight& weight) {
  uint32_t settled = 0, mask = 0;
  Crossing c{0, target, 0};
  for (int shift = 21; shift >= 0; shift -= shift == 21 ? 11 : 10) {
    const int bins = shift ? 2048 : 1024;
    for (int b = thread_index(); b < bins; b += block_size()) s.histogram[b] = 0;
    block_sync();
    for (int64_t i = thread_index(); i < count; i += block_size()) {
      const uint32_t k = key(i);
      if ((k & mask) != settled) continue;
      const uint64_t w = weight(i);
      if (w) atomic_add(s.histogram, int(k >> shift) & (bins - 1), w);
    }
    block_sync();
    c = crossing_bin(bins, c.missing, s);
    settled |= c.key << shift;
    mask |= uint32_t(bins - 1) << shift;
    block_sync();  // all have read the result and their bins
    if (shift == 0) break;
  }
  c.key = settled;
  return c;
}

}  // namespace fastdecode
