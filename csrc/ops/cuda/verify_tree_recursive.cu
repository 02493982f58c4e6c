#include "fastdecode/verify_tree_recursive.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void verify_tree_recursive(const VerifyTreeRecursiveArgs& a, void* stream) { launch("verify_tree_recursive", verify_tree_recursive_kernel, a.batch, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
