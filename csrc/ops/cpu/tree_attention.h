#pragma once

#include <cstdint>

namespace fastdecode {

// Attention of N tree nodes over a prefix of P keys and their own ancestors. Node i's key and value lie in slot P + i.
struct TreeAttentionArgs {
  const void *query, *key, *value;  // [b, H, N, D], [B, Hkv, S, D], [B, Hkv, S, D], D contiguous
  int dtype;                        // float32 or bfloat16
  int64_t batch, heads, kv_heads, nodes, dim;
  int64_t query_stride[3], key_stride[3], value_stride[3];  // elements, of the first three dimensions
  const int32_t* rows;       // [b] row of key and value, or null: identity
  const int32_t* lengths;    // [b] P
  const int64_t* ancestors;  // [b, N, words] bit i % 64 of word i / 64: node i is visible
  int64_t words;
  const int32_t* depth;  // [b, N]
  float scaling;
  int64_t window;  // keys at positions above P + depth - window are visible; 0: all
  void* out;       // [b, N, H, D] contiguous
  float* scratch;  // [threads, tree_attention_scratch(N, D)]
};

// A query row is one head of one node, row = node * (H / Hkv) + head within the KV head's group.
static const int64_t kAttentionBlock = 64;   // positions of a key block; blocks are aligned to absolute positions
static const int64_t kAttentionRows = 64;    // query rows that are worked on together
static const int64_t kAttentionTask = 128;   // query rows that share one pass over keys and values

// Floats of scratch that one thread needs.
int64_t tree_attention_scratch(int64_t nodes, int64_t dim);
void tree_attention(const TreeAttentionArgs& args);

struct AttentionTask {
  int64_t b, kv_head, first_row, row_count;
};

using TreeAttentionFn = void (*)(const TreeAttentionArgs& args, const AttentionTask& task, float* scratch);
namespace scalar {
void tree_attention_task(const TreeAttentionArgs& args, const AttentionTask& task, float* scratch);
}
namespace avx2 {
void tree_attention_task(const TreeAttentionArgs& args, const AttentionTask& task, float* scratch);
}
namespace avx512 {
void tree_attention_task(const TreeAttentionArgs& args, const AttentionTask& task, float* scratch);
}
namespace avx512bf16 {
void tree_attention_task(const TreeAttentionArgs& args, const AttentionTask& task, float* scratch);
}

}  // namespace fastdecode
