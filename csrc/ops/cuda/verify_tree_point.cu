#include "fastdecode/verify_tree_point.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void verify_tree_point(const VerifyTreePointArgs& a, void* stream) { launch("verify_tree_point", verify_tree_point_kernel, a.batch, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
