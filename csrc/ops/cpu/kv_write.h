#pragma once

#include <cstdint>

namespace fastdecode {

// Writes new keys or values into position-indexed slots: states [b, heads, n, dim] -> buffer [rows, heads, slots, dim].
struct KvWriteArgs {
  const char* states;
  char* buffer;
  int64_t batch, heads, count, dim_bytes;                           // dim_bytes: bytes of one head's vector
  int64_t state_row_stride, state_head_stride, state_token_stride;  // in bytes
  int64_t slot_rows, slots;
  int64_t row_stride, head_stride, slot_stride;                     // in bytes
  const int64_t* rows;                                              // [b] row of the buffer
  const int64_t* positions;                                         // [b, n] slots; equal ones of a row must carry equal states
};

// Throws std::out_of_range, before anything is written, when a row or a slot lies outside the buffer.
void kv_write(const KvWriteArgs& args);

}  // namespace fastdecode
