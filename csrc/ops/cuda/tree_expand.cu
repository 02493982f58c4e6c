#include "fastdecode/tree_expand.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void tree_expand(const TreeExpandArgs& a, void* stream) { launch("tree_expand", tree_expand_kernel, a.rows, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
