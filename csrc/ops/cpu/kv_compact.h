#pragma once

#include <cstdint>

namespace fastdecode {

// Moves the keys and values of accepted tree nodes to the front: slot P + path[j] -> P + j, in place.
struct KvCompactArgs {
  const int64_t* buffers;      // [count] addresses of arrays [rows, heads, slots, dim] that share sizes and strides
  int64_t count;
  int64_t slot_rows, heads, slots, dim_bytes;              // sizes of one array; dim_bytes = bytes of one head's vector
  int64_t row_stride, head_stride, slot_stride;            // in bytes
  const int32_t* rows;         // [b] row of the arrays that batch row b uses
  const int32_t* path;         // [b, N] node numbers, root first, -1 padded
  const int32_t* accept_len;   // [b]
  const int32_t* lengths;      // [b] P: node i sits in slot P + i
  int64_t batch, nodes;
};

// Throws std::out_of_range, before anything is moved, when a row or a slot lies outside the arrays.
void kv_compact(const KvCompactArgs& args);

}  // namespace fastdecode
