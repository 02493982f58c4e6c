#include "fastdecode/tree_attention.cuh"

#include "fastdecode/launch.cuh"
#include "ops/cuda/launchers.h"

namespace fastdecode {
namespace cuda {

void tree_attention(const TreeAttentionArgs& a, void* stream) {
  launch("tree_attention", tree_attention_kernel, a.batch * a.nodes * a.kv_heads * attention_splits(a), kWarp * kAttentionWarps, stream, a);
}

}  // namespace cuda
}  // namespace fastdecode
