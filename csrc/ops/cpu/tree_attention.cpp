#define FD_SIMD_NAMESPACE scalar
#include "ops/cpu/simd_scalar.h"
#include "ops/cpu/tree_attention_body.h"

#include <algorithm>

#include "ops/kernel.h"
#include "runtime/parallel.h"

namespace fastdecode {

static const Kernel<TreeAttentionFn> kernel("tree_attention", scalar::tree_attention_task, FD_X86(avx2::tree_attention_task), FD_X86(avx512::tree_attention_task));

static TreeAttentionFn implementation(int dtype) {
#if defined(__x86_64__)
  if (dtype == kBFloat16 && has_avx512_bf16()) return avx512bf16::tree_attention_task;
#endif
  (void)dtype;
  return kernel.get();
}

int64_t tree_attention_scratch(int64_t nodes, int64_t dim) {
  const int64_t padded = (dim + 15) / 16 * 16, block_keys = kAttentionBlock + nodes;
  const int64_t floats = kAttentionTask * (dim + padded + 3) + 2 * kAttentionBlock * padded + (block_keys + 4) * kAttentionRows + 3 * block_keys;
  return (floats + 15) / 16 * 16;
}

void tree_attention(const TreeAttentionArgs& a) {
  if (a.batch == 0 || a.nodes == 0) return;
  const int64_t rows = a.heads / a.kv_heads * a.nodes, pairs = a.batch * a.kv_heads;
  // Rows do not influence each other, so the cut may follow the number of threads: whole tasks read keys once, small ones balance.
  int64_t size = kAttentionTask;
  while (size > 16 && pairs * ((rows + size - 1) / size) < 3 * num_threads() && rows > size / 2) size /= 2;
  const int64_t groups = (rows + size - 1) / size, scratch = tree_attention_scratch(a.nodes, a.dim);
  const TreeAttentionFn run = implementation(a.dtype);
  parallel_for(pairs * groups, 1, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t pair = i / groups, first = i % groups * size;
      run(a, {pair / a.kv_heads, pair % a.kv_heads, first, std::min(size, rows - first)}, a.scratch + thread * scratch);
    }
  });
}

}  // namespace fastdecode
