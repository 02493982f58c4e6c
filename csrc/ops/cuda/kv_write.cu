#include "fastdecode/kv_write.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void kv_write(const KvWriteArgs& a, void* stream) { launch("kv_write", kv_write_kernel, a.batch * a.heads, 128, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
