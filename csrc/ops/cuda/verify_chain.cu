#include "fastdecode/verify_chain.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void verify_chain(const VerifyChainArgs& a, void* stream) { launch("verify_chain", verify_chain_kernel, a.batch, row_threads(a.vocab), stream, a); }
void verify_block(const VerifyChainArgs& a, void* stream) { launch("verify_block", verify_block_kernel, a.batch, row_threads(a.vocab), stream, a); }

}  // namespace cuda
}  // namespace fastdecode
