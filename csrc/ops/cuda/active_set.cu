#include "fastdecode/active_set.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void active_set(const ActiveSetArgs& a, void* stream) { launch("active_set", active_set_kernel, a.batch, kWarp, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
