#include "fastdecode/adaptive_block_size.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void adaptive_block_size(const AdaptiveBlockSizeArgs& a, void* stream) { launch("adaptive_block_size", adaptive_block_size_kernel, (a.batch + kWarp - 1) / kWarp, kWarp, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
