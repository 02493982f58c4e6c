#include "fastdecode/verify_tree_greedy.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void verify_tree_greedy(const VerifyTreeGreedyArgs& a, void* stream) { launch("verify_tree_greedy", verify_tree_greedy_kernel, (a.batch + kWarp - 1) / kWarp, kWarp, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
