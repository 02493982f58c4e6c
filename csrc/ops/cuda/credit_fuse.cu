#include "fastdecode/credit_fuse.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void credit_fuse(const CreditFuseArgs& a, void* stream) { launch("credit_fuse", credit_fuse_kernel, (a.rows + kWarp - 1) / kWarp, kWarp, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
