#include "fastdecode/vocab_stats.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void vocab_stats(const VocabStatsArgs& a, void* stream) { launch("vocab_stats", vocab_stats_kernel, a.rows, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
