#include "fastdecode/process_probs.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void process_probs(const ProcessProbsArgs& a, void* stream) { launch("process_probs", process_probs_kernel, a.rows, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
