#include "fastdecode/kv_compact.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void kv_compact(const KvCompactArgs& a, void* stream) { launch("kv_compact", kv_compact_kernel, a.count * a.batch * a.heads, kWarp, stream, a); }

}  // namespace cuda
}  // namespace fastdecode
