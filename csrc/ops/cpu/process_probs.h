#pragma once

#include <cstdint>

namespace fastdecode {

// Logits -> probabilities after penalties, temperature, top-k, top-p and min-p, in the order of transformers.
struct ProcessProbsArgs {
  const void* logits;  // [R, V] rows `stride` elements apart
  int64_t rows, vocab, stride;
  int dtype;
  const float* temperature;         // [R] or null (1); 0: one-hot at the argmax
  const int32_t* top_k;             // [R] or null; 0: off
  const float* top_p;               // [R] or null; 1: off
  const float* min_p;               // [R] or null; 0: off
  const float* repetition_penalty;  // [R] or null
  const float* presence_penalty;    // [R] or null
  const float* frequency_penalty;   // [R] or null
  const int32_t* prefix;            // [total] tokens of all rows, or null; ids outside [0, V) are ignored
  const int64_t* prefix_offsets;    // [R + 1]
  const int32_t* generated_from;    // [R] first prefix token that presence and frequency count, or null (0)
  float* probs;                     // [R, V] contiguous
  float* scratch;                   // [threads, process_probs_scratch(V)]
  int32_t* counts;                  // [threads, V] zero on entry and on exit; only read with penalties
};

// Elements of scratch that one thread needs.
int64_t process_probs_scratch(int64_t vocab);
void process_probs(const ProcessProbsArgs& args);

static const int64_t kTile = 64;           // columns that share one maximum
static const int64_t kSpare = 64;          // elements that vector stores may write behind a list

struct RowMax {
  float value;
  bool nan;
};

// The parts with long loops, for each instruction set.
struct ProbsLoops {
  // scores[i] = logits[i] / temperature and the maximum of every tile and of the row.
  RowMax (*scale)(const void* logits, int dtype, int64_t n, float temperature, float* scores, float* tile_max);
  // values[i] = exp(values[i] - max); returns their sum.
  double (*exponentials)(float* values, int64_t n, float max);
  // values[i] = values[i] * factor.
  void (*multiply)(float* values, int64_t n, float factor);
  // Lists (value, id) of x[i] >= bound in ascending order of id; n is any, `first` the id of x[0]. Returns how many.
  int64_t (*collect)(const float* x, int64_t n, int32_t first, float bound, float* values, int32_t* ids);
};

namespace scalar {
extern const ProbsLoops probs_loops;
}
namespace avx2 {
extern const ProbsLoops probs_loops;
}
namespace avx512 {
extern const ProbsLoops probs_loops;
}

}  // namespace fastdecode
