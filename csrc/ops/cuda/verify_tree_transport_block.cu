#include "fastdecode/verify_tree_transport_block.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void verify_tree_transport_block(const VerifyTreeTransportArgs& a, void* stream) { launch("verify_tree_transport_block", verify_tree_transport_block_kernel, a.batch, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
