// Laws over a vocabulary as probabilities, or as logits that become probabilities where they are read and are stored nowhere.
#pragma once

#include <cstdint>

#include "fastdecode/elements.cuh"
#include "fastdecode/exp.cuh"

namespace fastdecode {

// Rows of laws; every field takes 8 bytes.
struct Laws {
  const void* values;  // [R, V]
  const float* lse;    // [R] logarithms of the sums of exponentials of rows of logits; null: values are probabilities
  int64_t dtype;
};

// One of them. Without values every token has probability 0.
struct Law {
  const void* values;  // [V]
  int dtype;
  bool logits;
  float lse;
};

FD_HD static inline Law law_of(const Laws& laws, int64_t row, int64_t vocab) {
  const char* values = static_cast<const char*>(laws.values) + row * vocab * element_bytes(int(laws.dtype));
  return Law{values, int(laws.dtype), laws.lse != nullptr, laws.lse ? laws.lse[row] : 0};
}

// exp(logit - lse); at most 1, which rounding of the two might exceed.
FD_HD static inline float probability_of(float logit, float lse) {
  const float d = logit - lse;
  return exp_of(d > 0 ? 0 : d);
}

FD_HD static inline float law_at(const Law& law, int64_t token) {
  const float x = element_at(law.values, law.dtype, token);
  return law.logits ? probability_of(x, law.lse) : x;
}

}  // namespace fastdecode
