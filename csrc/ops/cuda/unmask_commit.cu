#include "fastdecode/unmask_commit.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void unmask_commit(const UnmaskCommitArgs& a, void* stream) { launch("unmask_commit", unmask_commit_kernel, a.batch, 128, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
