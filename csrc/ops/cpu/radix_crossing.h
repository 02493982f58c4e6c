// Where the running weight of a list, taken in descending order, reaches a target: a selection without a sort.
#pragma once

#include <cstdint>

namespace fastdecode {

// Order-preserving map of floats to unsigned integers.
inline uint32_t descending_key(float f) {
  f += 0.0f;  // -0 becomes +0, they are equal
  uint32_t bits;
  __builtin_memcpy(&bits, &f, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct Crossing {
  uint32_t key;   // elements with larger keys are all needed, those with smaller keys are not
  double before;  // total weight of the larger keys, below the target
};

constexpr int kRadixBins = 2048;

// weight(i) and key(i) of n >= 1 elements; histogram has kRadixBins entries. If the target exceeds the total, the smallest key results.
// The 32 bits are settled 11, 11 and 10 at a time; only elements that agree with the bits settled so far are counted.
template <class Key, class Weight>
Crossing radix_crossing(int64_t n, double target, double* histogram, const Key& key, const Weight& weight) {
  uint32_t settled = 0, mask = 0;
  double before = 0;
  constexpr int kShift[] = {21, 10, 0}, kBits[] = {11, 11, 10};
  for (int level = 0; level < 3; ++level) {
    const int shift = kShift[level], bins = 1 << kBits[level];
    for (int b = 0; b < bins; ++b) histogram[b] = 0;
    int lowest = bins;
    for (int64_t i = 0; i < n; ++i) {
      const uint32_t k = key(i);
      if ((k & mask) != settled) continue;
      const int b = int(k >> shift) & (bins - 1);
      histogram[b] += weight(i);
      lowest = b < lowest ? b : lowest;
    }
    int b = bins - 1;
    while (b > lowest && (histogram[b] == 0 || before + histogram[b] < target)) before += histogram[b--];
    settled |= uint32_t(b) << shift;
    mask |= uint32_t(bins - 1) << shift;
  }
  return {settled, before};
}

}  // namespace fastdecode
