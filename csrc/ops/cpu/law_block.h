// Laws in blocks that stay in the first-level cache, as probabilities; needs a simd_*.h.
#pragma once

#include <cstring>

#include "fastdecode/law.cuh"

namespace fastdecode {
namespace FD_SIMD_NAMESPACE {

static const int64_t kLawBlock = 1024, kLawPad = 64;  // tokens; blocks are padded with zeros to a multiple of kLawPad

struct alignas(64) LawStage {
  float probability[kLawBlock];
};

static inline F probabilities(F logits, F lse) {
  const F zero = set1(0);
  return exp(sub(zero, max(zero, sub(lse, logits))));  // NaN stays
}

// The `count` tokens from `begin` on: where they lie if they are floats and a whole number of pads, else in the stage.
static const float* law_block(const Law& law, int64_t begin, int64_t count, LawStage& stage) {
  float* x = stage.probability;
  const int64_t padded = (count + kLawPad - 1) / kLawPad * kLawPad;
  if (!law.values) {
    memset(x, 0, size_t(padded) * sizeof(float));
    return x;
  }
  const float* floats = static_cast<const float*>(law.values) + begin;
  if (law.dtype == kFloat32 && !law.logits && count == padded) return floats;
  const uint16_t* halves = static_cast<const uint16_t*>(law.values) + begin;
  const int64_t whole = kLanes > 1 ? count - count % kLanes : 0;  // the exponential of a single lane is the C library's
  const F lse = set1(law.lse);
  for (int64_t i = 0; i < whole; i += kLanes) {
    __builtin_prefetch(static_cast<const char*>(law.values) + (begin + i + kLawBlock) * element_bytes(law.dtype));
    const F value = law.dtype == kFloat32 ? load(floats + i) : load_bf16(halves + i);
    store(x + i, law.logits ? probabilities(value, lse) : value);
  }
  for (int64_t i = whole; i < count; ++i) x[i] = law_at(law, begin + i);
  for (int64_t i = count; i < padded; ++i) x[i] = 0;
  return x;
}

}  // namespace FD_SIMD_NAMESPACE
}  // namespace fastdecode
